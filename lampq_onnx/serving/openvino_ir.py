"""Write a model in OpenVINO's own format."""

from __future__ import annotations

import json
from pathlib import Path

from lampq_onnx.artifacts import Report
from lampq_onnx.disk.files import REPORT_FILE
from lampq_onnx.errors import LampqError
from lampq_onnx.serving.source import Source, device_of, write_preprocessing

OPTIONS_FILE = "openvino.json"
"""Options that `compile_model` should get."""

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}

_FLOAT32_SAYS = """asks for float32 beside the integers, as the figures of this model assume. Without it, OpenVINO
takes bfloat16 on CPUs that have it, which is faster and less exact"""

_DEFAULT_SAYS = """is empty: the figures of this model were measured with OpenVINO's own precision, which is
bfloat16 on CPUs that have it. `{"INFERENCE_PRECISION_HINT": "f32"}` asks for float32, which is slower"""


def to_openvino(source: Source, folder: Path) -> None:
    """Write ``<name>.xml``, ``<name>.bin``, ``openvino.json``, ``README.md`` and ``preprocessing.json`` to a folder.

    The IR cannot hold the precision of what is not an integer, bfloat16 by default on many CPUs. So the options
    for it lie beside it: float32, unless the report beside the model was measured with OpenVINO's own default.

    Raises:
        LampqError: the file is for another device, or openvino is missing, cannot read the file, or would read its
            weights wrongly.
    """
    device_of(source, "OpenVINO")
    operators = {node.op_type for node in source.model.graph}
    if "BitShift" in operators and "BitwiseAnd" not in operators:
        raise LampqError(
            f"{source.path} was written by an older version of lampq-onnx, whose weights of 5 to 7 "
            "bits OpenVINO reads incorrectly",
            hint="write the file again: lampq-onnx convert --target openvino",
        )
    try:
        import openvino
    except ImportError as error:
        raise LampqError(
            "the package openvino, which writes this format, is not installed", hint="install lampq-onnx[openvino]"
        ) from error
    try:
        # As `compile_model` reads the ONNX file, so that both compute the same bits. The converter of OpenVINO changes
        # the graph first, unpacks weights, and reports that it was used to its makers.
        model = openvino.Core().read_model(source.path)
        # The weights are integers already, and halving float32 constants would change what was validated.
        openvino.save_model(model, folder / f"{source.name}.xml", compress_to_fp16=False)
    except Exception as error:  # openvino's exceptions have no common public base
        raise LampqError(f"openvino cannot take {source.path}: {str(error).strip()[:500]}") from error
    options = {} if _measured_with_default(source.path) else FLOAT32
    (folder / OPTIONS_FILE).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(source.name, options), encoding="utf-8")
    write_preprocessing(source, folder)


def _measured_with_default(path: Path) -> bool:
    """Whether the report beside a file says that OpenVINO's default precision gave its figures."""
    report = path.with_name(REPORT_FILE)
    if not report.is_file():
        return False
    words = Report.load(report).environment.runtime
    return words.startswith("OpenVINO") and "its default" in words


def _readme(name: str, options: dict[str, str]) -> str:
    says = _FLOAT32_SAYS if options else _DEFAULT_SAYS
    return f"""# {name}

```python
import json
import openvino

with open("{OPTIONS_FILE}") as stream:
    options = json.load(stream)
model = openvino.Core().compile_model("{name}.xml", "CPU", options)
```

`{OPTIONS_FILE}` {says}.
"""
