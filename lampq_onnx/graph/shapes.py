"""Declared shapes of graph values."""

from __future__ import annotations

import math

import onnx_ir as ir

Dimension = int | str
"""A number, or the name of a symbolic dimension; equal names mean equal dimensions."""


def dimensions(value: ir.Value | None) -> tuple[Dimension, ...] | None:
    """Return the declared shape; None if a dimension has neither number nor name."""
    if value is None or value.shape is None:
        return None
    found = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return None if any(d is None for d in found) else found  # type: ignore[return-value]


def same_reshaped(before: tuple[Dimension, ...] | None, after: tuple[Dimension, ...] | None, leading: int) -> bool:
    """Whether the first dimensions of a Reshape's input and result are the same.

    Shape inference gives the batch behind a -1 another name. With one symbol on both sides, it is the same number if
    all other dimensions have the same product.

    Args:
        before: shape of the input.
        after: shape of the result.
        leading: number of dimensions to compare.
    """
    if before is None or after is None or min(len(before), len(after)) < leading:
        return False
    if before[:leading] == after[:leading]:
        return True
    symbols = [[position for position, d in enumerate(shape) if isinstance(d, str)] for shape in (before, after)]
    if len(symbols[0]) != 1 or symbols[0] != symbols[1]:
        return False
    numbers = [[d for d in shape if isinstance(d, int)] for shape in (before, after)]
    (symbol,) = symbols[0]
    pairs = zip(before[:leading], after[:leading], strict=True)
    return math.prod(numbers[0]) == math.prod(numbers[1]) and all(
        a == b for position, (a, b) in enumerate(pairs) if position != symbol
    )
