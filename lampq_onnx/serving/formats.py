"""The serving forms, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.disk.existing import require_new_folder
from lampq_onnx.disk.files import MODEL_FILE, require_space, require_writable
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.comparable import ModelFile, require_quantized
from lampq_onnx.graph.keys import MODEL_KEY
from lampq_onnx.graph.model_file import file_bytes, load_model
from lampq_onnx.serving.derived import is_package, remove_package, require_unchanged, write_package_record
from lampq_onnx.serving.measured import require_measured
from lampq_onnx.serving.openvino_ir import to_openvino
from lampq_onnx.serving.ort_format import to_ort
from lampq_onnx.serving.source import Source, staged_folder
from lampq_onnx.serving.triton import to_triton

FORMATS: dict[str, Callable[[Source, Path], None]] = {
    "ort": to_ort,
    "triton": to_triton,
    "openvino-ir": to_openvino,
}
"""Name -> what writes it into an empty folder."""


@dataclass(frozen=True)
class Packaged:
    """What was written.

    Attributes:
        folder: where.
        files: relative to it, with their bytes.
    """

    folder: Path
    files: dict[str, int]


def package(source: Path, form: str, output: Path | None = None, *, overwrite: bool = False) -> Packaged:
    """Write a quantized model in a serving form, as one new folder that appears when it is complete.

    Args:
        source: a folder that `quantize` wrote, or an ONNX file.
        form: one of `FORMATS`.
        output: the folder to make; None: named after the form, beside the file.
        overwrite: replace a package that is there; other files in that folder are never removed.

    Raises:
        UsageError: unknown form, or the output exists.
        LampqError: no such file, it is not quantized, it is not the one that the folder's report was measured on, a
            package is missing, or the form cannot hold the model.
    """
    if form not in FORMATS:
        raise UsageError(f"--format: unknown format {form!r}", hint=f"formats: {', '.join(FORMATS)}")
    path = source / MODEL_FILE if source.is_dir() else source
    target = output or path.parent / form
    require_new_folder(target, replaceable=overwrite and is_package(target))
    if is_package(target):
        require_unchanged(target)
    require_writable(target.parent)
    model = load_model(path)
    require_quantized(ModelFile(model, path))
    if source.is_dir():
        require_measured(source)
    require_space(target.parent, 2 * file_bytes(path), f"the package of {path}")
    with staged_folder(target) as stage:
        FORMATS[form](Source(path=path, model=model, name=_name(model, path)), stage)
        write_package_record(stage, form, path)
        if is_package(target):
            remove_package(target)
    files = {str(f.relative_to(target)): f.stat().st_size for f in sorted(target.rglob("*")) if f.is_file()}
    return Packaged(folder=target, files=files)


def _name(model: ir.Model, path: Path) -> str:
    """A name of letters, digits and underscores."""
    text = model.metadata_props.get(MODEL_KEY) or path.stem
    name = "".join(c if c.isalnum() else "_" for c in text).strip("_")
    if not name:
        raise LampqError(f"{path} holds no name that a folder can have")
    return name
