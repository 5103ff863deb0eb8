"""Answers of the simulation, computed before the files are opened: its weights and their sessions never meet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES, Simulation

HELD_BYTES = 2**28
"""Most bytes of answers that are held. A thousand classes take 1 MB; maps of every pixel take too much."""


class Answers:
    """Answers to images that were seen before, looked up by the bytes of an image."""

    def __init__(self) -> None:
        self._known: dict[bytes, npt.NDArray[np.float32]] = {}

    def add(self, images: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> None:
        """Add the answers (n, ...) to images (n, c, h, w)."""
        for image, value in zip(images, values, strict=True):
            self._known[_digest(image)] = value.copy()

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the answers to images (n, c, h, w).

        Raises:
            LampqError: an image was not seen before.
        """
        try:
            return np.stack([self._known[_digest(image)] for image in images])
        except KeyError:
            raise LampqError(
                "the validation images are not the same when they are read again",
                hint="give images without random changes, e.g. a folder or an .npz file",
            ) from None


def _digest(image: npt.NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def answers_before(
    simulation: Simulation, batches: Iterable[Batch], advance: Callable[[int], None], *, most: int = HELD_BYTES
) -> Answers | None:
    """Run the simulation on the images that are compared.

    Args:
        simulation: the quantized model in PyTorch.
        batches: the validation images in order.
        advance: is told how many images are done.
        most: see `HELD_BYTES`.

    Returns:
        The answers; None if they are too large to be held.
    """
    found = Answers()
    for batch in batches:
        if batch.start >= FIDELITY_IMAGES:
            break
        values = simulation(batch.images)
        if values.nbytes / len(values) * FIDELITY_IMAGES > most:
            return None
        found.add(batch.images, values)
        advance(batch.start + len(batch.images))
    return found
