"""Which elements of a layer's input count for the time of the quantized file."""

from __future__ import annotations

LEAST_ROWS = 16
"""Rows whose product takes as long as reading the weights."""


def timed_elements(whole: int, computed: int | None, inputs: int) -> int:
    """Return how many elements of a layer's input count for the time of the file.

    Args:
        whole: all of them, for one image.
        computed: those that the file computes; None: all.
        inputs: number of input channels. A product of a few rows takes the time to read its weights, which that of
            `LEAST_ROWS` rows takes.
    """
    return whole if computed is None else min(whole, max(computed, LEAST_ROWS * inputs))
