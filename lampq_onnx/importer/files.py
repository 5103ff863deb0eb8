"""Writes graphs in normal form as files, for stages that need no gradients."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.graph.keys import MODEL_KEY
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.importer.normalize import import_model
from lampq_onnx.importer.preprocessing import file_preprocessing


def is_foreign(model: ir.Model) -> bool:
    """Whether a file was not written by lampq-onnx."""
    return MODEL_KEY not in model.metadata_props


def write_normal_form(path: Path, images: ImageOptions, output: Path) -> Path:
    """Write the normal form of a foreign file, with the preprocessing of its images.

    Returns:
        ``output``.

    Raises:
        LampqError: see `import_model` and `file_preprocessing`.
    """
    imported = import_model(path)
    model = imported.model
    preprocessing = file_preprocessing(model, path, images, pixels=imported.form.pixels)
    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    image.shape = ir.Shape([image.shape[0] if image.shape else "batch", preprocessing.channels, *preprocessing.size])
    classes = scores.shape[-1] if scores.shape is not None and len(scores.shape) else None
    write_metadata(model, path.stem, preprocessing, classes if isinstance(classes, int) else None)
    save_model(model, output)
    return output
