"""Values of options as people give them: words, numbers with commas, sizes and times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from lampq_onnx.allocation.limits import parse_bops, parse_latency, parse_size
from lampq_onnx.disk.checkpoint_files import names_checkpoint
from lampq_onnx.disk.wording import joined, shown
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import RUNNERS, target_for

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia")

MOST_SIDE = 16384
"""Largest side of an image in pixels; a larger one is a typing error."""

MadeImages = Literal["synthetic", "noise"]


def calibration_of(value: object) -> Path | MadeImages | None:
    """Read a source of calibration images: a path, or `synthetic` or `noise` for images made from the model.

    A folder of that name is written ./synthetic.

    Raises:
        ValueError: the value is neither a path nor text.
    """
    if not isinstance(value, str | Path | None):
        raise ValueError(f"must be a path, synthetic or noise, not {shown(value)}")
    words: tuple[MadeImages, ...] = get_args(MadeImages)
    made = next((word for word in words if value == word), None)
    return made or (None if value is None else Path(value))


def calibration_text(value: Path | MadeImages | None) -> str | None:
    """The word or path that `calibration_of` reads back as it is."""
    if isinstance(value, Path):
        return f"./{value}" if str(value) in get_args(MadeImages) else str(value)
    return value


def known_model_name(value: str) -> str:
    """A model's name; a file of weights is none.

    Raises:
        UsageError: naming what to type.
    """
    if names_checkpoint(value):
        raise UsageError(
            f"{value!r} is a file of weights, not the name of a model",
            hint=f"name the timm model that the weights belong to: quantize TIMM_NAME --checkpoint {value}",
        )
    return value


def known_device(value: str) -> str:
    """A device of torch, alone or with a number.

    Raises:
        ValueError: anything else.
    """
    name, _, index = value.partition(":")
    if name not in DEVICES or (index and not index.isascii()) or (":" in value and not index.isdigit()):
        raise ValueError(f"must be {joined(DEVICES)}, alone or with a number as in cuda:0, not {value!r}")
    return value


def all_positive(value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Require that all numbers are above 0.

    Raises:
        ValueError: one is not.
    """
    if value is not None and not all(number > 0 for number in value):
        raise ValueError(f"must be numbers above 0, not {', '.join(map(str, value))}")
    return value


def numbers_of(value: object) -> object:
    """Numbers with commas between as a tuple; other values as they are.

    Raises:
        ValueError: text that holds anything else.
    """
    if not isinstance(value, str):
        return value
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise ValueError(f"must be numbers with commas between, not {value!r}") from None


def sides_of(value: object) -> object:
    """Height and width of images from text such as ``224`` and ``384x512``, or from one number in a list.

    Raises:
        ValueError: text that holds anything else.
    """
    if not isinstance(value, str):
        return (value[0], value[0]) if isinstance(value, list | tuple) and len(value) == 1 else value
    sides = value.lower().replace(",", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isascii() and side.strip().isdigit() for side in sides):
        raise ValueError(f"must be height x width in pixels, e.g. 384x512 or 384, not {value!r}")
    return int(sides[0]), int(sides[-1])


def possible_sides(value: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width that an image may have.

    Raises:
        ValueError: a side is smaller than one pixel, or larger than any model takes.
    """
    if value is not None and not all(1 <= side <= MOST_SIDE for side in value):
        raise ValueError(f"must be height and width from 1 to {MOST_SIDE} pixels, not {value[0]}x{value[1]}")
    return value


def not_empty(value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """At least one number.

    Raises:
        ValueError: there is none.
    """
    if value is not None and not value:
        raise ValueError("must be numbers, one for each channel, and there are none")
    return value


def known_target(value: str) -> str:
    """The name of a target.

    Raises:
        UsageError: there is none of this name.
    """
    target_for(value, "", ())
    return value


def known_runtime(value: str) -> str:
    """The name of a runtime that runs files here, or auto.

    Raises:
        ValueError: there is none of this name.
    """
    if value not in ("auto", *RUNNERS):
        raise ValueError(f"must be auto or one of {', '.join(RUNNERS)}, not {value!r}")
    return value


def size_text(value: str | None) -> str | None:
    """Text that `parse_size` can read."""
    return _readable(value, parse_size)


def latency_text(value: str | None) -> str | None:
    """Text that `parse_latency` can read."""
    return _readable(value, parse_latency)


def bops_text(value: str | None) -> str | None:
    """Text that `parse_bops` can read."""
    return _readable(value, parse_bops)


def _readable(value: str | None, parse: Callable[[str], float]) -> str | None:
    if value is not None:
        parse(value)
    return value
