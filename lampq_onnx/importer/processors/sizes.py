"""Reads how a processor resizes, crops and pads an image to the model's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lampq_onnx.data.resizing import Resize
from lampq_onnx.importer.processors.classes import ProcessorClass
from lampq_onnx.importer.processors.keys import REMEDY, refused

WARPED_FROM = 384
"""Size in pixels from which ConvNeXT's class stretches images; below it, the class crops."""

LEVIT_SCALE = 256 / 224

DETECTOR_LIMIT = 1333
"""Longest side for detector classes, if size is one number and max_size is missing."""

_FORMS = (
    {"height", "width"},
    {"shortest_edge"},
    {"longest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)


@dataclass(frozen=True)
class Fit:
    """How images are brought to the model's size.

    Attributes:
        size: height and width of the model's input.
        resize: the rule; None letterboxes the whole image into the size, as files with one size do for detectors.
    """

    size: tuple[int, int]
    resize: Resize | None


class Sizes:
    """Reads the sizes of one file.

    Args:
        said: the file's keys, with the defaults of the class for missing ones.
        kind: class of the processor.
        source: the file, for messages.
        configured: height and width that the model was made for, if known.
    """

    def __init__(
        self, said: Mapping[str, Any], kind: ProcessorClass, source: str, configured: tuple[int, int] | None
    ) -> None:
        self._said = said
        self._kind = kind
        self._source = source
        self._configured = configured

    def fit(self) -> Fit:
        """The fit that the file describes.

        Raises:
            UnsupportedKey: the images would have different sizes, or the rule is not supported.
        """
        crop = self._pair("crop_size") if self._said.get("do_center_crop") else None
        if not self._said.get("do_resize"):
            return self._padded(crop or self._own_size(), Resize(to="none", then="crop" if crop else "exact"))
        size = self._size()
        if "max_height" in size or {"shortest_edge", "longest_edge"} <= size.keys():
            return self._whole_images(size, crop)
        if "longest_edge" in size:
            if self._kind.rule != "sam":
                raise self._refused("size", f"is {size}, which gives images of different sizes")
            return self._padded(crop, Resize(to="longest", sides=(size["longest_edge"],), then="crop"))
        resized, cropped = self._rules().get(self._kind.rule, self._plain)(size)
        crop = crop or cropped
        if crop is None:
            if resized.to != "stretch":
                raise self._refused(
                    "do_center_crop",
                    f"is off and size is {size}: images would have different sizes, but a file takes one size",
                )
            crop = (resized.sides[0], resized.sides[1])
        elif cropped not in (None, crop):
            raise self._refused("crop_size", f"is {crop}, after a crop to {cropped} by crop_pct")
        then = "exact" if resized.to == "stretch" and resized.sides == crop else "crop"
        return self._padded(crop, resized.model_copy(update={"then": then}))

    def _rules(self) -> Mapping[str, Callable[[dict[str, int]], tuple[Resize, tuple[int, int] | None]]]:
        """Rule of a class -> function that returns how to resize, and the crop that belongs to it."""
        return {"convnext": self._convnext, "poolformer": self._poolformer, "levit": self._levit, "dpt": self._dpt}

    def _plain(self, size: dict[str, int]) -> tuple[Resize, tuple[int, int] | None]:
        if "shortest_edge" in size:
            return Resize(to="shortest", sides=(size["shortest_edge"],)), None
        return Resize(to="stretch", sides=(size["height"], size["width"])), None

    def _convnext(self, size: dict[str, int]) -> tuple[Resize, tuple[int, int] | None]:
        share = self._share()
        if share is None:
            return self._plain(size)
        side = size.get("shortest_edge")
        if side is None:
            raise self._refused("crop_pct", f"is {share} and size is {size}: it needs a shortest_edge")
        if side >= WARPED_FROM:
            if not self._kind.name:
                raise self._refused(
                    "crop_pct",
                    f"is {share} with a size of {side}: only ConvNextImageProcessor does not crop then",
                    hint=f"name the image_processor_type in the file; or {REMEDY}",
                )
            return Resize(to="stretch", sides=(side, side)), None
        return Resize(to="shortest", sides=(int(side / share),)), (side, side)

    def _poolformer(self, size: dict[str, int]) -> tuple[Resize, tuple[int, int] | None]:
        share = self._share()
        if share is None:
            return self._plain(size)
        side = size.get("shortest_edge")
        if side is None and size["height"] == size["width"]:
            side = size["height"]
        if side is not None:
            return Resize(to="shortest", sides=(int(side / share),)), None
        return Resize(to="stretch", sides=(int(size["height"] / share), int(size["width"] / share))), None

    def _levit(self, size: dict[str, int]) -> tuple[Resize, tuple[int, int] | None]:
        if "shortest_edge" in size:
            return Resize(to="shortest", sides=(int(LEVIT_SCALE * size["shortest_edge"]),)), None
        return self._plain(size)

    def _dpt(self, size: dict[str, int]) -> tuple[Resize, tuple[int, int] | None]:
        if "height" not in size:
            raise self._refused("size", f"is {size}: DPTImageProcessor takes a height and a width")
        if self._said.get("keep_aspect_ratio"):
            raise self._refused(
                "keep_aspect_ratio", "is true: images would have different sizes, but a file takes one size"
            )
        multiple = self._whole("ensure_multiple_of", self._said.get("ensure_multiple_of", 1))
        sides = tuple(_multiple(side, multiple) for side in (size["height"], size["width"]))
        divisor = self._said.get("size_divisor")
        if self._said.get("do_pad") and divisor is not None:
            whole = self._whole("size_divisor", divisor)
            if any(side % whole for side in sides):
                raise self._refused("size_divisor", f"is {divisor}, which pads the size {sides} around the image")
        return Resize(to="stretch", sides=sides), None

    def _whole_images(self, size: dict[str, int], crop: tuple[int, int] | None) -> Fit:
        """Letterbox images into one size: detectors' processors keep the aspect ratio within two limits."""
        if self._kind.rule != "detector":
            raise self._refused("size", f"is {size}: images would have different sizes, but a file takes one size")
        if crop is not None:
            raise self._refused("do_center_crop", f"is on and size is {size}, which detectors do not crop")
        limit = size.get("longest_edge", 0)
        padded = self._pair("pad_size") if self._said.get("do_pad") and self._said.get("pad_size") else None
        largest = (size["max_height"], size["max_width"]) if "max_height" in size else (limit, limit)
        return Fit(padded or self._configured or largest, None)

    def _padded(self, size: tuple[int, int] | None, resize: Resize) -> Fit:
        """Apply do_pad and pad_size, which fill the right and the bottom."""
        if not self._said.get("do_pad") or not self._said.get("pad_size"):
            if size is None:
                raise self._refused("pad_size", "is missing; without it images would have different sizes")
            return Fit(size, resize)
        padded = self._pair("pad_size")
        if size is None:
            if max(padded) < max(resize.sides) or padded[0] != padded[1]:
                raise self._refused("pad_size", f"is {padded}, which does not hold images of {resize.sides}")
            return Fit(padded, resize.model_copy(update={"then": "pad"}))
        if padded == size:
            return Fit(size, resize)
        if resize.then == "crop":
            raise self._refused("pad_size", f"is {padded}, after a center crop to {size}")
        if padded[0] < size[0] or padded[1] < size[1]:
            raise self._refused("pad_size", f"is {padded}, smaller than the image's {size}")
        return Fit(padded, resize.model_copy(update={"then": "pad"}))

    def _own_size(self) -> tuple[int, int]:
        """The size of the model: without resizing and cropping, images must already have it."""
        if self._configured is None:
            raise self._refused("do_resize", "is false, there is no center crop, and the model does not say its size")
        return self._configured

    def _size(self) -> dict[str, int]:
        value = self._said.get("size")
        if value is None:
            raise self._refused("size", "is missing, and there is no default for it")
        limit = self._said.get("max_size")
        if isinstance(value, int) and self._kind.rule == "sam":
            value = {"longest_edge": value}
        if isinstance(value, int) and not isinstance(value, bool) and "max_size" in self._kind.own_keys:
            value = {"shortest_edge": value, "longest_edge": DETECTOR_LIMIT if limit is None else limit}
        return self._sides("size", value, square=bool(self._said.get("default_to_square", self._kind.square)))

    def _pair(self, key: str) -> tuple[int, int]:
        """Height and width under a key."""
        value = self._said.get(key)
        if value is None:
            raise self._refused(key, "is missing, and there is no default for it")
        sides = self._sides(key, value, square=True)
        if "height" not in sides:
            if set(sides) == {"shortest_edge"} and key == "crop_size":
                return sides["shortest_edge"], sides["shortest_edge"]
            raise self._refused(key, f"is {value}, not a height and a width")
        return sides["height"], sides["width"]

    def _sides(self, key: str, value: Any, *, square: bool) -> dict[str, int]:
        if isinstance(value, list | tuple) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        elif isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        if not isinstance(value, dict):
            raise self._refused(key, f"is {value!r}, not a size in pixels")
        found = {str(name): self._whole(key, side) for name, side in value.items() if side is not None}
        if set(found) not in _FORMS:
            raise self._refused(key, f"is {value}, which is not supported")
        return found

    def _whole(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
            raise self._refused(key, f"has {value!r}, but must be a whole number of at least 1")
        return int(value)

    def _share(self) -> float | None:
        """The value of crop_pct, or None."""
        value = self._said.get("crop_pct")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self._refused("crop_pct", f"is {value!r}, not a number in (0, 1]")
        return float(value)

    def _refused(self, key: str, why: str, hint: str = REMEDY) -> Exception:
        return refused(self._source, key, why, hint)


def _multiple(side: int, multiple: int) -> int:
    """The nearest multiple, rounded as in DPT's class."""
    found = round(side / multiple) * multiple
    return found if found > 0 else math.ceil(side / multiple) * multiple
