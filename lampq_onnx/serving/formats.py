"""The serving forms, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.converter.model_file import load_model
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.files import MODEL_FILE, require_writable
from lampq_onnx.metadata_keys import MODEL_KEY
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


def package(source: Path, form: str, output: Path | None = None) -> Packaged:
    """Write a quantized model in a serving form, as one new folder that appears when it is complete.

    Args:
        source: a folder that `quantize` wrote, or an ONNX file.
        form: one of `FORMATS`.
        output: the folder to make; None: named after the form, beside the file. It must not exist.

    Raises:
        UsageError: unknown form, or the output exists.
        LampqError: no such file, a package is missing, or the form cannot hold the model.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}", hint=f"formats: {', '.join(FORMATS)}")
    path = source / MODEL_FILE if source.is_dir() else source
    model = load_model(path)
    target = output or path.parent / form
    if target.exists():
        raise UsageError(f"{target} exists already", hint="remove it, or name another folder with --output")
    require_writable(target.parent)
    with staged_folder(target) as stage:
        FORMATS[form](Source(path=path, model=model, name=_name(model, path)), stage)
    files = {str(f.relative_to(target)): f.stat().st_size for f in sorted(target.rglob("*")) if f.is_file()}
    return Packaged(folder=target, files=files)


def _name(model: ir.Model, path: Path) -> str:
    """A name of letters, digits and underscores."""
    text = model.metadata_props.get(MODEL_KEY) or path.stem
    name = "".join(c if c.isalnum() else "_" for c in text).strip("_")
    if not name:
        raise LampqError(f"{path} holds no name that a folder can have")
    return name
