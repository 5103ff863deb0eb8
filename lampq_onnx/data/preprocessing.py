"""What happens to an image before the model sees it, as a value that travels with the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError, field_validator, model_validator

from lampq_onnx.artifacts.base import Record
from lampq_onnx.data.decoding import to_mode
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.wording import explain

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
_Side = Annotated[int, Field(ge=1, le=8192)]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the model's input: input = scale * image - offset, in pixels.

    Attributes
    ----------
    scale : down and across.
    offset : down and across.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes (n, 4), left, top, width and height, from pixels of the image to pixels of the input."""
        (down, across), (top, left) = self.scale, self.offset
        return np.asarray(boxes * [across, down, across, down] - [left, top, 0, 0])

    def to_image(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The reverse of `to_input`."""
        (down, across), (top, left) = self.scale, self.offset
        return np.asarray((boxes + np.array([left, top, 0, 0])) / [across, down, across, down])


class Preprocessing(Record):
    """Resize, crop and normalization; but for ``letterbox`` equal to timm's evaluation transform.

    Attributes
    ----------
    size : (h, w) of the model's input.
    crop_pct : share of the resized image that the crop keeps, in (0, 1].
    crop_mode : ``center`` keeps the aspect ratio; ``squash`` resizes both sides independently; ``letterbox`` keeps the
        aspect ratio and the whole image, and fills the right or the bottom with the mean.
    interpolation : Pillow's filter.
    mean, std : one number per channel, for values in 0..1.
    channels : 3 (RGB) or 1 (grayscale).
    """

    size: tuple[_Side, _Side]
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    crop_mode: Literal["center", "squash", "letterbox"]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Literal[1, 3]

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        # Division happens in float32, where a tiny positive number is zero.
        if any(np.float32(value) <= 0 for value in std):
            raise ValueError(f"every number must be greater than 0, not {_listed(std)}")
        return std

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers ({_listed(values)}) for {self.channels} channels")
        return self

    def describe(self) -> str:
        """One line for people."""
        side = "x".join(map(str, self.size))
        return (
            f"{side}, {self.crop_mode} crop {self.crop_pct:g}, {self.interpolation}, "
            f"mean {_listed(self.mean)}, std {_listed(self.std)}"
        )

    def override(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_pct: float | None = None,
    ) -> Self:
        """Return a copy with the given values replaced; None keeps a value.

        Raises
        ------
        UsageError
            A list whose length is not the number of channels, a number that is not finite, a std that is not
            positive, or a crop_pct outside (0, 1].
        """
        given = {"mean": mean, "std": std, "crop_pct": crop_pct}
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return self.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"][:1])
            raise UsageError(f"the preprocessing cannot be changed like this: {where}{explain([problem])}") from error

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one image.

        EXIF orientation is ignored, as timm and torchvision do. Alpha is dropped; 16-bit pixels are scaled.

        Parameters
        ----------
        image : PIL.Image.Image, any mode and size.

        Returns
        -------
        ndarray, uint8 (h, w, channels)
            Writable and not shared with ``image``.

        Raises
        ------
        LampqError
            Pixels without an 8-bit form, or an image so elongated that the resized one would exceed Pillow's
            pixel limit.
        """
        image = to_mode(image, self.channels)
        height, width = self._resized(image.height, image.width)
        if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
            raise LampqError(
                f"an image of {image.width}x{image.height} pixels would be resized to {width}x{height}",
                hint="remove the image, or use a larger crop percentage",
            )
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.crop_mode == "letterbox":
            return self._letterboxed(image)
        top, left = _offset(height, self.size[0]), _offset(width, self.size[1])
        # Pillow fills what lies outside the image with 0, which is torchvision's padding.
        image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return np.array(image, dtype=np.uint8).reshape(*self.size, self.channels)

    def placement(self, height: int, width: int) -> Placement:
        """Where an image of this size lies in the model's input."""
        resized = self._resized(height, width)
        offset = (
            (0, 0)
            if self.crop_mode == "letterbox"
            else (_offset(resized[0], self.size[0]), _offset(resized[1], self.size[1]))
        )
        return Placement((resized[0] / height, resized[1] / width), offset)

    def normalize(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn crops into the model's input, ``(x / 255 - mean) / std``.

        Parameters
        ----------
        batch : ndarray, uint8 (n, h, w, channels).

        Returns
        -------
        ndarray, float32 (n, channels, h, w), contiguous.

        Raises
        ------
        ValueError
            Another dtype or shape.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != self.channels:
            raise ValueError(f"expected uint8 (n, h, w, {self.channels}), got {batch.dtype} {batch.shape}")
        out = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).astype(np.float32)
        out /= np.float32(255)
        out -= np.asarray(self.mean, dtype=np.float32).reshape(1, -1, 1, 1)
        out /= np.asarray(self.std, dtype=np.float32).reshape(1, -1, 1, 1)
        return out

    def _letterboxed(self, image: Image.Image) -> NDArray[np.uint8]:
        fill = np.rint(255 * np.clip(np.asarray(self.mean), 0, 1)).astype(np.uint8)
        canvas = np.broadcast_to(fill, (*self.size, self.channels)).copy()
        canvas[: image.height, : image.width] = np.asarray(image, dtype=np.uint8).reshape(
            image.height, image.width, self.channels
        )
        return canvas

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop; the three rounding rules are those of timm's three branches."""
        target_h, target_w = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash":
            return target_h, target_w
        if self.crop_mode == "letterbox":
            scale = min(self.size[0] / height, self.size[1] / width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        if target_h != target_w:
            ratio = min(height / target_h, width / target_w)
            return round(height / ratio), round(width / ratio)
        if width <= height:
            return int(target_w * height / width), target_w
        return target_h, int(target_h * width / height)


def _offset(available: int, wanted: int) -> int:
    if wanted > available:
        return -((wanted - available) // 2)
    return round((available - wanted) / 2.0)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(str, values))
