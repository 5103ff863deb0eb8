"""Weights whose rows differ in width, put together from the same weights at each width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lampq_onnx.artifacts import ChannelWidths
from lampq_onnx.quantization import QuantizedWeight, RowWidths, WeightGrid

Bits = int | ChannelWidths
"""Width of a layer's weights: one number, or one for each output channel."""


def join_weights(widths: ChannelWidths, parts: Mapping[int, QuantizedWeight]) -> QuantizedWeight:
    """Take each row from the weight of its width.

    Rounding treats rows independently, so the result is what rounding the mix itself would give on the same grids.

    Args:
        widths: widths of the rows.
        parts: width -> the layer's weight rounded to this width, without a bias of its own.
    """
    rows = widths.row_bits()
    widest = parts[widths.widest]
    codes = np.empty_like(widest.codes)
    for bits in widths.counts:
        codes[rows == bits] = parts[bits].codes[rows == bits]
    kept = None if len(widths.counts) == 1 else RowWidths(rows, {b: parts[b].grid for b in widths.counts})
    return QuantizedWeight(codes, _scales(widths, parts), widest.bits, widest.grid, widths=kept)


def join_grids(widths: ChannelWidths, parts: Mapping[int, WeightGrid]) -> WeightGrid:
    """Take the scale of each row from the grid of its width.

    Args:
        widths: widths of the rows.
        parts: width -> the layer's grid of this width.
    """
    rows = widths.row_bits()
    widest = parts[widths.widest]
    kept = None if len(widths.counts) == 1 else RowWidths(rows, {b: parts[b].grid for b in widths.counts})
    # The errors of single rows are not known; each grid's error by its share of the rows is their best estimate.
    error = sum(parts[bits].error * count for bits, count in widths.counts.items()) / len(rows)
    return WeightGrid(_scales(widths, parts), widest.bits, widest.grid, error, kept)


def _scales(
    widths: ChannelWidths, parts: Mapping[int, QuantizedWeight] | Mapping[int, WeightGrid]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    rows = widths.row_bits()
    scale = np.empty(len(rows), np.float32)
    for bits in widths.counts:
        scale[rows == bits] = parts[bits].scale[rows == bits]
    return scale
