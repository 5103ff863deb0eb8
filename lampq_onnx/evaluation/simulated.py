"""Answers of the simulation, computed before the files are opened: its weights and their sessions never meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from lampq_onnx.data import Batch
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES, Simulation

HELD_BYTES = 2**28
"""Most bytes of answers that are held. A thousand classes take 1 MB; maps of every pixel take too much."""


class Answers:
    """Answers to consecutive images, given again in their order.

    Args:
        values: answers (n, ...), float32.
    """

    def __init__(self, values: npt.NDArray[np.float32]) -> None:
        self._values = values
        self._given = 0

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the answers to the images (n, c, h, w) that follow those of the last call.

        Raises:
            ValueError: there are no answers to so many images.
        """
        start, stop = self._given, self._given + len(images)
        if stop > len(self._values):
            raise ValueError(f"answers to images {start} to {stop} were asked for, and there are {len(self._values)}")
        self._given = stop
        return self._values[start:stop]


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
    found: list[npt.NDArray[np.float32]] = []
    for batch in batches:
        if batch.start >= FIDELITY_IMAGES:
            break
        found.append(simulation(batch.images))
        if found[0].nbytes / len(found[0]) * FIDELITY_IMAGES > most:
            return None
        advance(batch.start + len(batch.images))
    return Answers(np.concatenate(found))
