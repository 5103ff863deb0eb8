"""Boxes of objects in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The objects of one image.

    Attributes:
        size: height and width of the image in pixels.
        boxes: float64 (k, 4), left, top, width and height in pixels of the image.
        categories: int64 (k,), category ids of the annotations.
        areas: float64 (k,), areas in pixels.
        crowds: bool (k,), whether a box marks a group of objects.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float64]
    categories: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of all images of a source, in its order.

    Attributes:
        categories: category id -> name.
        images: the objects of each image.
    """

    categories: dict[int, str]
    images: tuple[ImageObjects, ...]

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Objects:
        """Return the objects of the images at ``indices``."""
        return Objects(self.categories, tuple(self.images[int(i)] for i in indices))
