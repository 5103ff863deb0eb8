"""How an image is brought to the size that a model takes, and where its pixels lie afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lampq_onnx.disk.records import Record

Side = Annotated[int, Field(ge=1, le=8192)]

_SIDES = {"none": 0, "stretch": 2, "shortest": 1, "longest": 1}


@dataclass(frozen=True)
class Placement:
    """Position of an image in the model's input: input = scale * image - offset, in pixels.

    Attributes:
        scale: vertical and horizontal factor.
        offset: vertical and horizontal offset in pixels.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map boxes (n, 4) (left, top, width, height) from pixels of the image to pixels of the input.

        Args:
            boxes: float64 (n, 4), pixels of the image.

        Returns:
            float64 (n, 4), pixels of the input.
        """
        (down, across), (top, left) = self.scale, self.offset
        return np.asarray(boxes * [across, down, across, down] - [left, top, 0, 0])

    def to_image(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Undo `to_input`: map boxes from pixels of the input to pixels of the image.

        Args:
            boxes: float64 (n, 4), pixels of the input.

        Returns:
            float64 (n, 4), pixels of the image.
        """
        (down, across), (top, left) = self.scale, self.offset
        return np.asarray((boxes + np.array([left, top, 0, 0])) / [across, down, across, down])


class Resize(Record):
    """Resizing as in an image processor of transformers, which rounds differently from timm's transform.

    Attributes:
        to: ``none`` keeps the image's size; ``stretch`` resizes to a height and a width; ``shortest`` and ``longest``
            resize that side to a length and keep the aspect ratio.
        sides: in pixels: height and width for ``stretch``, one length for ``shortest`` and ``longest``, else empty.
        then: the next step: ``exact`` refuses an image that does not have the model's size now; ``crop`` keeps its
            middle, and adds black if it is too small; ``pad`` fills the right and the bottom with the mean.
    """

    to: Literal["none", "stretch", "shortest", "longest"]
    sides: tuple[Side, ...] = ()
    then: Literal["exact", "crop", "pad"] = "exact"

    @model_validator(mode="after")
    def _as_many_sides_as_the_rule_takes(self) -> Self:
        if len(self.sides) != _SIDES[self.to]:
            raise ValueError(f"resizing by the rule {self.to!r} takes {_SIDES[self.to]} sides, not {len(self.sides)}")
        return self

    def describe(self) -> str:
        """Describe the resizing in a few words."""
        lengths = "x".join(map(str, self.sides))
        size = {
            "none": "not resized",
            "stretch": f"resized to {lengths}",
            "shortest": f"shortest side resized to {lengths}",
            "longest": f"longest side resized to {lengths}",
        }[self.to]
        return size + {"exact": "", "crop": ", center crop", "pad": ", padded right and below with the mean"}[self.then]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of an image after resizing, rounded as in transformers.

        Args:
            height: height of the image in pixels.
            width: width of the image in pixels.
        """
        if self.to == "none":
            return height, width
        if self.to == "stretch":
            return self.sides[0], self.sides[1]
        (side,) = self.sides
        if self.to == "shortest":
            if width <= height:
                return int(side * height / width), side
            return side, int(side * width / height)
        scale = side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def center_offset(available: int, wanted: int) -> int:
    """Return the first of the middle ``wanted`` pixels, rounded as in transformers; negative: pixels to add."""
    return (available - wanted) // 2
