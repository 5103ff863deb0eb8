"""Measure on images which tensors of a float file overflow in float16, for targets that compute in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.overflows import read_overflows, write_overflows
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.environment import available_cores
from lampq_onnx.runtime.overflows import measure_overflows
from lampq_onnx.targets import Target

if TYPE_CHECKING:
    from lampq_onnx.frontend.shared.batching import SlicedImages

IMAGES = 32
"""Images that are measured; the margin of `measure_overflows` is for the others."""

BATCH = 4
"""Images at once, because all tensors of the file are in memory."""

STAGE = "overflows"


def measure_on_crops(model: ir.Model, path: Path, crops: SlicedImages, threads: int) -> None:
    """Write into the metadata of a float graph what overflows on calibration images; ``path`` is its file.

    Raises:
        LampqError: see `measure_overflows`.
    """
    batches = (batch.images for batch in crops.slice(0, IMAGES).batches(BATCH))
    write_overflows(model, measure_overflows(path, batches, threads=threads))


def with_overflows(
    model: ir.Model,
    path: Path,
    images: ImageOptions,
    target: Target,
    *,
    threads: int | None,
    progress: ProgressSink = NO_PROGRESS,
) -> None:
    """Write into the metadata of a float graph what overflows, if the target needs it and the graph does not say it.

    Args:
        model: the float graph.
        path: its file.
        images: calibration images, and overrides of the preprocessing that the file records.
        target: where the file will run.
        threads: threads of the session; None: all cores.
        progress: is told about stages.

    Raises:
        LampqError: no calibration images are given, or the file does not say its preprocessing.
        UsageError: the images would be made from a model in PyTorch.
    """
    if not target.half or read_overflows(model) is not None:
        return
    if images.calibration is None:
        raise LampqError(
            f"{target.name} computes in float16, and {path} does not say what overflows there",
            hint="give --calibration SRC, so that it can be measured",
        )
    if isinstance(images.calibration, str):
        raise UsageError(
            f"--calibration {images.calibration} needs the model in PyTorch, but convert has only its file",
            hint="give real images, or the float.onnx that quantize wrote for this target",
        )
    facts = read_metadata(model, path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    source = open_source(images.calibration, num_classes=facts.num_classes, need_labels=False)
    chosen = choose(source, IMAGES, images.seed)
    with progress.stage(STAGE, len(chosen)) as advance:

        def batches() -> Iterator[npt.NDArray[np.float32]]:
            for batch in iter_batches(chosen, preprocessing, BATCH):
                yield batch.images
                advance(batch.start + len(batch.images))

        write_overflows(model, measure_overflows(path, batches(), threads=threads or available_cores()))
