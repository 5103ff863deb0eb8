"""The preprocessing of an image for a model, as a value that is stored with the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from lampq_onnx.data.decoding import Pixels, planes
from lampq_onnx.data.resizing import Placement, Resize, Side, center_offset
from lampq_onnx.disk.records import Record
from lampq_onnx.disk.wording import explain
from lampq_onnx.errors import LampqError, UsageError

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

LEVEL = 1 / 255
"""Default factor for pixel values: they are then 0..1."""


class Preprocessing(Record):
    """Resize, crop and normalization. The defaults equal timm's evaluation transform, except for ``letterbox``.

    Attributes:
        size: (h, w) of the model's input.
        crop_pct: share of the resized image that the crop keeps, in (0, 1].
        crop_mode: ``center`` keeps the aspect ratio; ``squash`` resizes both sides independently; ``letterbox`` keeps
            the aspect ratio and the whole image, and fills the right or the bottom with the mean.
        interpolation: Pillow's filter.
        mean: one number per channel, in the order of the model's channels, for values after ``rescale_factor`` and
            ``rescale_offset``.
        std: one number per channel, like ``mean``.
        channels: 3 (a color picture), 1 (a grayscale picture), or any other number for arrays with that many channels.
        channel_order: order in which the model takes the channels of a color picture.
        rescale_factor: a pixel's value (0..255) is multiplied by this first.
        rescale_offset: this is added to the product.
        resize: resizing and crop by the rules of transformers, instead of ``crop_pct`` and ``crop_mode``.
    """

    size: tuple[Side, Side]
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    crop_mode: Literal["center", "squash", "letterbox"]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Annotated[int, Field(ge=1, le=4096)]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    rescale_factor: Annotated[float, Field(gt=0)] = LEVEL
    rescale_offset: float = 0.0
    resize: Resize | None = None

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        # The division is done in float32, where a tiny positive number is zero.
        if any(np.float32(value) <= 0 for value in std):
            raise ValueError(f"every number must be greater than 0, not {_listed(std)}")
        return std

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"{name} has {len(values)} numbers ({_listed(values)}) for {self.channels} channels: give "
                    f"{self.channels}"
                )
        if self.channel_order == "bgr" and self.channels != 3:
            raise ValueError(f"channel_order bgr is for 3 channels, not {self.channels}")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Fields that have their default are not written, so that a value has only one form in files and hashes.
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if fields[name].is_required() or getattr(self, name) != fields[name].default
        }

    def describe(self) -> str:
        """Describe everything that happens to an image, in one line."""
        side = "x".join(map(str, self.size))
        kind = {1: "grayscale", 3: self.channel_order.upper()}.get(self.channels, f"{self.channels} channels")
        parts = [side] if (self.channels, self.channel_order) == (3, "rgb") else [f"{side} {kind}"]
        if self.resize is None:
            parts.append(f"{self.crop_mode} crop {self.crop_pct:g}")
        else:
            parts.append(self.resize.describe())
        parts.append(self.interpolation)
        if (self.rescale_factor, self.rescale_offset) != (LEVEL, 0.0):
            offset = f" {self.rescale_offset:+g}" if self.rescale_offset else ""
            parts.append(f"values 0..255 times {self.rescale_factor:.6g}{offset}")
        parts += [f"mean {_listed(self.mean)}", f"std {_listed(self.std)}"]
        return ", ".join(parts)

    def override(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_pct: float | None = None,
    ) -> Self:
        """Return a copy with the given values replaced; None keeps a value.

        A crop_pct replaces `resize`: the image is then resized and cropped as in timm.

        Args:
            mean: one number for each channel.
            std: one number above 0 for each channel.
            crop_pct: share of the resized image that the crop keeps, in (0, 1].

        Raises:
            UsageError: a list has not one number per channel, a number is not finite, a std is not positive, or
                crop_pct is outside (0, 1].
        """
        given = {"mean": mean, "std": std, "crop_pct": crop_pct}
        changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        if crop_pct is not None:
            changes["resize"] = None
        try:
            return self.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"][:1])
            raise UsageError(f"the preprocessing cannot be changed like this: {where}{explain([problem])}") from error

    def crop(self, image: Pixels) -> NDArray[np.uint8]:
        """Resize and crop one image.

        EXIF orientation is ignored, as in timm and torchvision. Alpha is dropped; 16-bit pixels are scaled. Colors are
        in the order red, green, blue; `normalize` brings them into the model's order.

        Args:
            image: PIL.Image.Image of any mode and size, or uint8 (h, w, channels).

        Returns:
            uint8 (h, w, channels), writable and not shared with ``image``.

        Raises:
            LampqError: the pixels have no 8-bit form, the model's channels cannot be made from the image's, the image
                is not resized and has another size than the model takes, or it is so elongated that the resized one
                would exceed Pillow's pixel limit.
        """
        parts = planes(image, self.channels)
        width, height = parts[0].size
        target = self._resized(height, width)
        if Image.MAX_IMAGE_PIXELS is not None and target[0] * target[1] > Image.MAX_IMAGE_PIXELS:
            raise LampqError(
                f"an image of {width}x{height} pixels would be resized to {target[1]}x{target[0]}",
                hint="remove the image, or use a larger crop percentage",
            )
        if target != (height, width):
            kind = Image.Resampling[self.interpolation.upper()]
            parts = [part.resize((target[1], target[0]), kind) for part in parts]
        self._require_fit(height, width, target)
        if self._pads:
            return self._padded(parts)
        top, left = self._offsets(*target)
        # Pillow fills everything outside the image with 0, which is the padding of torchvision and transformers.
        box = (left, top, left + self.size[1], top + self.size[0])
        return self._joined([part.crop(box) for part in parts])

    def placement(self, height: int, width: int) -> Placement:
        """Return where an image of this size lies in the model's input.

        Args:
            height: height of the image in pixels.
            width: width of the image in pixels.
        """
        resized = self._resized(height, width)
        offset = (0, 0) if self._pads else self._offsets(*resized)
        return Placement((resized[0] / height, resized[1] / width), offset)

    def normalize(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn crops into the model's input: ``(x * rescale_factor + rescale_offset - mean) / std``.

        Args:
            batch: uint8 (n, h, w, channels).

        Returns:
            float32 (n, channels, h, w), contiguous.

        Raises:
            ValueError: the batch has another dtype or shape.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != self.channels:
            raise ValueError(f"expected uint8 (n, h, w, {self.channels}), got {batch.dtype} {batch.shape}")
        ordered = batch[..., ::-1] if self.channel_order == "bgr" else batch
        out = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2)).astype(np.float32)
        if self.rescale_factor == LEVEL:
            out /= np.float32(255)
        else:
            out *= np.float32(self.rescale_factor)
        if self.rescale_offset:
            out += np.float32(self.rescale_offset)
        out -= np.asarray(self.mean, dtype=np.float32).reshape(1, -1, 1, 1)
        out /= np.asarray(self.std, dtype=np.float32).reshape(1, -1, 1, 1)
        return out

    @property
    def like_timm(self) -> bool:
        """Whether timm's evaluation transform does exactly this."""
        plain = (self.channel_order, self.rescale_factor, self.rescale_offset) == ("rgb", LEVEL, 0.0)
        return plain and self.resize is None and self.crop_mode != "letterbox"

    @property
    def _pads(self) -> bool:
        return self.crop_mode == "letterbox" if self.resize is None else self.resize.then == "pad"

    def _require_fit(self, height: int, width: int, resized: tuple[int, int]) -> None:
        """Raise LampqError if resizing leaves a size that the next step cannot handle."""
        if self.resize is None or self.resize.then == "crop" or resized == self.size:
            return
        if self.resize.then == "pad" and resized[0] <= self.size[0] and resized[1] <= self.size[1]:
            return
        wanted = f"{self.size[1]}x{self.size[0]}"
        found = f"{width}x{height}" if self.resize.to == "none" else f"{resized[1]}x{resized[0]} after resizing"
        raise LampqError(
            f"it is {found} pixels (width x height), the model takes {wanted}, and its preprocessing "
            f"({self.resize.describe()}) does not change that",
            hint="bring the images to that size, or give --crop, which resizes and crops them",
        )

    def denormalize(self, batch: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Undo `normalize`: float32 (n, channels, h, w) to the nearest pixels, uint8 (n, h, w, channels).

        Args:
            batch: float32 (n, channels, h, w).

        Returns:
            uint8 (n, h, w, channels).
        """
        std, black = np.array(self.std, np.float32), np.array(self.mean, np.float32) - np.float32(self.rescale_offset)
        values = (batch.transpose(0, 2, 3, 1) * std + black) * np.float32(1 / self.rescale_factor)
        levels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(levels[..., ::-1] if self.channel_order == "bgr" else levels)

    def _padded(self, parts: list[Image.Image]) -> NDArray[np.uint8]:
        level = (np.asarray(self.mean) - self.rescale_offset) / self.rescale_factor
        fill = np.rint(np.clip(level, 0, 255)).astype(np.uint8)
        if self.channel_order == "bgr":
            fill = fill[::-1]
        canvas = np.broadcast_to(fill, (*self.size, self.channels)).copy()
        canvas[: parts[0].height, : parts[0].width] = self._joined(parts)
        return canvas

    def _joined(self, parts: list[Image.Image]) -> NDArray[np.uint8]:
        shape = (parts[0].height, parts[0].width, -1)
        return np.concatenate([np.array(part, dtype=np.uint8).reshape(shape) for part in parts], axis=2)

    def _offsets(self, height: int, width: int) -> tuple[int, int]:
        """Return the first row and column of the crop."""
        offset = _offset if self.resize is None else center_offset
        return offset(height, self.size[0]), offset(width, self.size[1])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width before the crop; the three rounding rules are those of timm's three branches."""
        if self.resize is not None:
            return self.resize.resized(height, width)
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
