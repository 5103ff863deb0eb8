"""The serving formats by name, and the function that writes a package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.disk.existing import require_new_folder
from lampq_onnx.disk.files import MODEL_FILE, require_space, require_writable
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.comparable import ModelFile, require_quantized
from lampq_onnx.graph.keys import MODEL_KEY, TARGET_KEY
from lampq_onnx.graph.model_file import file_bytes, load_model
from lampq_onnx.serving.derived import is_package, remove_package, require_unchanged, write_package_record
from lampq_onnx.serving.measured import require_measured
from lampq_onnx.serving.source import Source, staged_folder
from lampq_onnx.serving.table import FORMATS


@dataclass(frozen=True)
class Packaged:
    """The result of writing a package.

    Attributes:
        folder: folder of the package.
        files: paths relative to it -> size in bytes.
        source: the quantized file.
        source_bytes: its size, with external data.
        target: what the quantized file was made for; empty if it does not say.
        runs: where the package may run.
        failed: gates that the folder's report fails, as sentences.
    """

    folder: Path
    files: dict[str, int]
    source: Path
    source_bytes: int
    target: str
    runs: str
    failed: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the package."""
        return sum(self.files.values())


def package(source: str | Path, form: str, output: str | Path | None = None, *, overwrite: bool = False) -> Packaged:
    """Write a quantized model in a serving format, as one new folder that appears when it is complete.

    Args:
        source: a folder that `quantize` wrote, or an ONNX file.
        form: ort, triton, openvino-ir or transformers-js.
        output: the folder to make; None: beside the file, named after the format.
        overwrite: replace an existing package; other files in that folder are never removed.

    Returns:
        the folder and its files.

    Raises:
        UsageError: the format is unknown, or the output exists.
        LampqError: the file does not exist or is not quantized, the folder's report was measured on another file, a
            package is missing, or the format cannot hold the model.
    """
    if form not in FORMATS:
        raise UsageError(f"--format: unknown format {form!r}", hint=f"formats: {', '.join(FORMATS)}")
    source = Path(source)
    path = source / MODEL_FILE if source.is_dir() else source
    target = path.parent / form if output is None else Path(output)
    require_new_folder(target, replaceable=overwrite and is_package(target))
    if is_package(target):
        require_unchanged(target)
    require_writable(target.parent)
    model = load_model(path)
    require_quantized(ModelFile(model, path))
    failed = require_measured(source) if source.is_dir() else ()
    require_space(target.parent, 2 * file_bytes(path), f"the package of {path}")
    with staged_folder(target) as stage:
        FORMATS[form].write(Source(path=path, model=model, name=_name(model, path)), stage)
        write_package_record(stage, form, path)
        if is_package(target):
            remove_package(target)
    files = {str(f.relative_to(target)): f.stat().st_size for f in sorted(target.rglob("*")) if f.is_file()}
    return Packaged(
        folder=target,
        files=files,
        source=path,
        source_bytes=file_bytes(path),
        target=model.metadata_props.get(TARGET_KEY, ""),
        runs=FORMATS[form].runs,
        failed=failed,
    )


def _name(model: ir.Model, path: Path) -> str:
    """Return a name of letters, digits and underscores."""
    text = model.metadata_props.get(MODEL_KEY) or path.stem
    name = "".join(c if c.isalnum() else "_" for c in text).strip("_")
    if not name:
        raise LampqError(f"{path} holds no model name that can be used for a folder")
    return name
