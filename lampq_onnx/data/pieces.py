"""Answers to many images, a few at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def in_pieces(answer: Callable[[Array], Array], images: Array, size: int) -> Array:
    """Join the answers to consecutive pieces of the images.

    Args:
        answer: images (m, c, h, w) -> outputs (m, ...).
        images: (n, c, h, w).
        size: most images of a piece.

    Returns:
        Outputs (n, ...).
    """
    found = [answer(images[start : start + size]) for start in range(0, len(images), size)]
    return found[0] if len(found) == 1 else np.concatenate(found)
