"""The calibration images of a command that has only the float file, not the model in PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import ImageSource, Preprocessing, choose, open_source
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.metadata import read_metadata


def calibration_images(
    model: ir.Model, path: Path, images: ImageOptions, count: int, *, missing: LampqError
) -> tuple[ImageSource, Preprocessing]:
    """Choose calibration images, and tell how they are prepared for a float file.

    Args:
        model: the float graph.
        path: its file.
        images: where the images are, and overrides of the preprocessing that the file records.
        count: number of images.
        missing: raised if no images are given; it says what is not known without them.

    Raises:
        LampqError: ``missing``, or the file does not say its preprocessing.
        UsageError: the images would be made from a model in PyTorch.
    """
    if images.calibration is None:
        raise missing
    if isinstance(images.calibration, str):
        raise UsageError(
            f"--calibration {images.calibration} needs the model in PyTorch, but convert has only its file",
            hint="give real images, or the plan.json and float.onnx that quantize wrote for this target",
        )
    facts = read_metadata(model, path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    source = open_source(images.calibration, num_classes=facts.num_classes, need_labels=False)
    return choose(source, count, images.seed), preprocessing
