"""Measure on images which tensors of a float file overflow in float16, for targets that compute in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import iter_batches
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.overflows import read_overflows, write_overflows
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.environment import available_cores
from lampq_onnx.runtime.overflows import measure_overflows
from lampq_onnx.targets import Target
from lampq_onnx.workflow.calibration_images import calibration_images

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
    chosen, preprocessing = calibration_images(
        model,
        path,
        images,
        IMAGES,
        missing=LampqError(
            f"{target.name} computes in float16, and {path} does not say what overflows there",
            hint="give --calibration SRC, so that it can be measured",
        ),
    )
    with progress.stage(STAGE, len(chosen)) as advance:

        def batches() -> Iterator[npt.NDArray[np.float32]]:
            for batch in iter_batches(chosen, preprocessing, BATCH):
                yield batch.images
                advance(batch.start + len(batch.images))

        write_overflows(model, measure_overflows(path, batches(), threads=threads or available_cores()))
