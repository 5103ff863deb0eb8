"""A sequence of images with optional labels, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lampq_onnx.data.decoding import Pixels, decode
from lampq_onnx.data.objects import Objects

Labels = NDArray[np.int64]
Targets = NDArray[np.float64]


class Reader(Protocol):
    """Reads pixels; positions are those of the whole collection."""

    def image(self, position: int) -> Pixels:
        """Read one image; raise LampqError with its name if it cannot be read."""

    def name(self, position: int) -> str:
        """Return the name of this image for messages."""


@dataclass(frozen=True)
class FileReader:
    """Image files below one folder; ``files`` holds paths relative to it, with forward slashes."""

    folder: Path
    files: tuple[str, ...] = field(repr=False)

    def image(self, position: int) -> Pixels:
        """Decode one image file, see `decode`."""
        return decode(self.folder / self.files[position])

    def name(self, position: int) -> str:
        """Return the path relative to the folder."""
        return self.files[position]


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Some images of a collection, in a fixed order. Holds no pixels.

    Attributes:
        reader: reads the pixels.
        positions: int64 (n,), position of each image in the reader.
        labels: int64 (n,) class indices, or None if they are not known.
        targets: float64 (n, ...) real numbers for each image, or None if they are not known.
        description: what was opened, as text.
        made: whether the images were made from the model, which makes them less informative than real ones.
        objects: boxes of the images, or None if they are not known.
    """

    reader: Reader = field(repr=False)
    positions: NDArray[np.int64] = field(repr=False)
    labels: Labels | None = field(repr=False)
    description: str
    made: bool = False
    objects: Objects | None = field(default=None, repr=False)
    targets: Targets | None = field(default=None, repr=False)

    @classmethod
    def whole(
        cls, reader: Reader, count: int, labels: Labels | None, description: str, *, made: bool = False
    ) -> ImageSource:
        """Make a source of all ``count`` images of a reader."""
        return cls(reader, np.arange(count, dtype=np.int64), labels, description, made)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    def image(self, i: int) -> Pixels:
        """Read image ``i``: a loaded Pillow image of any 8-bit mode, or an array (h, w, channels).

        Raises:
            LampqError: the image cannot be read.
        """
        return self.reader.image(int(self.positions[i]))

    def name(self, i: int) -> str:
        """Return the name of image ``i`` for messages."""
        return self.reader.name(int(self.positions[i]))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageSource:
        """Return the images at ``indices``, in that order; repetition is allowed.

        Raises:
            IndexError: an index is outside 0..len-1.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}")
        labels = None if self.labels is None else self.labels[chosen]
        objects = None if self.objects is None else self.objects.subset(chosen)
        targets = None if self.targets is None else self.targets[chosen]
        return ImageSource(self.reader, self.positions[chosen], labels, self.description, self.made, objects, targets)
