"""Calibration images as measurements use them: parts to fit to and to compare on, and their labels."""

from __future__ import annotations

import torch

from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.shared.batching import Images, SlicedImages
from lampq_onnx.frontend.shared.loaded import LoadedModel

HELD_OUT_SHARE = 4
"""One in this many calibration images is held out, to choose between results from the others."""

SHARE_IMAGES = 128
"""Images that the channels' shares of the costs are measured on."""

MOST_HELD_OUT = 64
"""Largest number of held-out images: every comparison takes many passes, and more images do not change the choice."""


def split(images: SlicedImages) -> tuple[SlicedImages, SlicedImages]:
    """Split images into those to fit to and those to compare on; a single image serves as both."""
    count = len(images)
    if count == 1:
        return images, images
    held = max(1, min(count // HELD_OUT_SHARE, MOST_HELD_OUT))
    return images.slice(0, count - held), images.slice(count - held, count)


def unmeasured(images: SlicedImages) -> SlicedImages:
    """Images that no cost of weights was measured on: costs take images from the second half.

    Where there are enough of them, they follow the images of the channels' shares.
    """
    half = max(1, len(images) - len(images) // 2)
    start = SHARE_IMAGES if half >= SHARE_IMAGES + MOST_HELD_OUT else 0
    return images.slice(start, min(start + MOST_HELD_OUT, half))


def labels_of(images: Images) -> torch.Tensor | None:
    """Labels of the images, int64 (n,), if known."""
    return None if images.labels is None else torch.from_numpy(images.labels)


def require_labels(loaded: LoadedModel, kind: str, images: Images | None) -> None:
    """Refuse given labels if the task has no class labels or the images have none.

    Args:
        loaded: the model, which knows its task.
        kind: "sampled" or "given".
        images: calibration images; None if they are not open yet.

    Raises:
        UsageError: the task is not classification.
        LampqError: the images have no labels.
    """
    if kind != "given":
        return
    if loaded.task.kind != "classification":
        raise UsageError(
            f"given labels are classes, and the task is {loaded.task.kind}",
            hint="use labels sampled from the model, which is the default",
        )
    if images is not None and images.labels is None:
        raise LampqError(
            "given labels are requested, but the calibration images have none",
            hint="use labels sampled from the model, or give labelled images",
        )
