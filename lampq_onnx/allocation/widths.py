"""Lists of widths as people write them."""

from __future__ import annotations

import re

from lampq_onnx.allocation.problem import MAX_BITS, MIN_BITS
from lampq_onnx.artifacts.plan import ACTIVATION_BITS, FLOAT_BITS
from lampq_onnx.errors import UsageError

INPUT_WIDTHS = tuple(b for b in ACTIVATION_BITS if b != FLOAT_BITS)
"""Widths of quantized inputs."""


def parse_candidates(text: str) -> tuple[int, ...]:
    """Parse widths from ``2-8`` or ``2,4,8`` or a mix of both; the result is ascending.

    Raises:
        UsageError: the text is not such a list, or a width is outside 1..8.
    """
    return _parse(text, tuple(range(MIN_BITS, MAX_BITS + 1)), "candidate widths", "2,4,8")


def parse_activation_candidates(text: str) -> tuple[int, ...]:
    """Parse input widths from ``4,6,8,16`` or ``4-8,16``; the result is ascending.

    Raises:
        UsageError: the text is not such a list, or inputs cannot have a width.
    """
    return _parse(text, INPUT_WIDTHS, "candidate widths of activations", "4,6,8,16")


def _parse(text: str, allowed: tuple[int, ...], what: str, example: str) -> tuple[int, ...]:
    widths: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", part.strip(), re.ASCII)
        named = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not named or not set(named) <= set(allowed):
            raise UsageError(
                f"cannot read {text!r} as {what}",
                hint=f"Give a range such as {allowed[0]}-8 or a list such as {example}; widths are "
                f"{', '.join(map(str, allowed))}.",
            )
        widths.update(named)
    return tuple(sorted(widths))
