"""Image batches in NumPy, as tensors on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.artifacts.image_size import LARGE_PIXELS
from lampq_onnx.data import Batch
from lampq_onnx.data.pieces import in_pieces
from lampq_onnx.data.source import Labels
from lampq_onnx.running.processes import ALONE, Group, own_items


class Images(Protocol):
    """Images that can be iterated many times without holding them in memory."""

    @property
    def labels(self) -> Labels | None:
        """Labels int64 (n,), or None if they are not known."""

    @property
    def made(self) -> bool:
        """Whether the images were made from the model, and so show less than real images do."""

    def __len__(self) -> int:
        """Number of images in the set."""

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over normalized batches in order."""


class SlicedImages(Images, Protocol):
    """Images of which consecutive ranges can be taken."""

    def slice(self, start: int, stop: int) -> SlicedImages:
        """The images from start to stop, exclusive."""


BATCH = 16
"""Images per forward pass; bounds the memory of every stage of the front end."""

PASS_PIXELS = 2 * LARGE_PIXELS
"""Largest number of pixels in a forward pass of several images: activations grow with the pixels, and those of global
attention with their square."""


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next(model.parameters()).device


def tensors(
    images: Images, device: torch.device, *, batch_size: int = BATCH, group: Group = ALONE, whole: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Iterate over the batches of this process, as tensors on ``device``.

    Args:
        images: to iterate over.
        device: the model's.
        batch_size: largest number of images in a batch.
        group: processes that take the batches in turn.
        whole: batches of large images are not cut to `PASS_PIXELS`: the caller does that.

    Yields:
        Images float32 (n, c, h, w), and labels int64 (n,) or None.
    """
    for batch in own_items(images.batches(batch_size), group):
        count = len(batch.images)
        size = count if whole else pass_images(batch.images.shape, count)
        for start in range(0, count, size):
            part = slice(start, start + size)
            labels = None if batch.labels is None else torch.from_numpy(batch.labels[part]).to(device)
            yield torch.from_numpy(batch.images[part]).to(device), labels


def pass_images(shape: tuple[int, ...], most: int) -> int:
    """Number of images of a forward pass; ``shape`` ends with an image's height and width."""
    return max(1, min(most, PASS_PIXELS // (shape[-1] * shape[-2])))


def unlabelled(images: Images, device: torch.device, *, group: Group = ALONE) -> Iterator[tuple[torch.Tensor, None]]:
    """Iterate over whole batches without their labels, for passes that go backward: those are cut by what they hold."""
    return ((batch, None) for batch, _ in tensors(images, device, group=group, whole=True))


def answers_of(module: torch.nn.Module) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The model as a function of images (n, c, h, w) to outputs (n, ...), both float32; large images in pieces."""

    @torch.no_grad()
    def piece(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = module(torch.from_numpy(images).to(device_of(module))).float().cpu().numpy()
        return found

    return lambda images: in_pieces(piece, images, pass_images(images.shape, len(images)))


@torch.no_grad()
def logits_of(model: torch.nn.Module, images: Images) -> torch.Tensor:
    """Outputs for all images, float32 (n, ...) on the CPU."""
    return torch.cat([model(batch).float().cpu() for batch, _ in tensors(images, device_of(model))])
