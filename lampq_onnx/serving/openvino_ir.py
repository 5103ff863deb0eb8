"""Write a model in OpenVINO's own format."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.errors import LampqError
from lampq_onnx.serving.source import Source, write_preprocessing


def to_openvino(source: Source, folder: Path) -> None:
    """Write ``<name>.xml``, ``<name>.bin`` and ``preprocessing.json`` to a folder.

    Raises:
        LampqError: openvino is missing, cannot read the file, or would read its weights wrongly.
    """
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
        model = openvino.convert_model(source.path)
        # The weights are integers already, and halving float32 constants would change what was validated.
        openvino.save_model(model, folder / f"{source.name}.xml", compress_to_fp16=False)
    except Exception as error:  # openvino's exceptions have no common public base
        raise LampqError(f"openvino cannot take {source.path}: {str(error).strip()[:500]}") from error
    write_preprocessing(source, folder)
