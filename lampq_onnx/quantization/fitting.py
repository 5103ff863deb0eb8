"""The grid and the scales of least squared error for a weight matrix, per output channel or per block of inputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.quantization.grids import FLOAT8_BITS, INTEGER_GRIDS, LARGEST_FLOAT8, FloatArray, Grid, usable_grids
from lampq_onnx.quantization.weights import RowWidths, WeightGrid

SEARCH_RATIOS = np.linspace(0.1, 1.0, 19)
"""Fractions of the channel's largest magnitude that the search starts from. Optimal clipping lies between 0.4 (2 bits)
and 1 (8 bits) for Gaussian weights, and down to 0.15 at 2 and 3 bits if one weight is 10 times the others."""

REFINEMENTS = 3
"""Number of least-squares updates of the scale after the search; none can raise the error for fixed codes."""

SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)
LARGEST_HALF = float(np.finfo(np.float16).max)


def fit_weight_grid(
    weight: FloatArray,
    bits: int | npt.NDArray[np.integer[Any]],
    grids: Collection[str] = INTEGER_GRIDS,
    block: int | None = None,
) -> WeightGrid:
    """Find the grid and the scales of channels or blocks with the smallest squared error.

    Args:
        weight: (outputs, inputs), finite.
        bits: 1..8, for all rows or one for each, (outputs,). Rows of the same width get the same grid.
        grids: grids to choose from; 1 bit has only the mid-rise grid, and more than `MID_RISE_MAX_BITS` bits only the
            other one.
        block: inputs that share a scale, which is a number of float16 then; None: each row has one scale.

    Raises:
        ValueError: the weight is not a matrix or not finite, a width is outside 1..8, there is not one for each row, or
            the rows of a weight in blocks differ in width.
    """
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"expected a non-empty matrix, got shape {weight.shape}")
    if isinstance(bits, np.ndarray):
        if bits.shape != weight.shape[:1]:
            raise ValueError(f"expected one width for each of {len(weight)} rows, got shape {bits.shape}")
        if block is None:
            return _fit_rows(weight, bits, grids)
        if len(np.unique(bits)) > 1:
            raise ValueError("the rows of a weight in blocks have one width")
        bits = int(bits[0])
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be 1..8, not {bits}")
    weight = weight.astype(np.float32, copy=False)
    if block is not None:
        return _fit_blocks(weight, bits, grids, block)
    largest = np.abs(weight).max(axis=1)
    if not np.isfinite(largest).all():
        raise ValueError("the weights hold NaN or infinity")
    usable = usable_grids(bits, grids)
    if usable == [Grid.E4M3]:
        return _fit_float8(weight, largest)
    # Scaling by powers of two changes no rounding, and squares of huge or tiny weights would overflow or underflow
    # float32.
    exponent = np.frexp(largest)[1]
    weight = np.ldexp(weight, -exponent[:, None])
    fits = [_fit(weight, exponent, bits, grid) for grid in usable]
    return min(fits, key=lambda fit: fit.error)


def _fit_float8(weight: npt.NDArray[np.float32], largest: npt.NDArray[np.float32]) -> WeightGrid:
    """Let the largest weight of each row be the largest number of float8; a smaller scale clips."""
    scale = np.where(largest > 0, largest / LARGEST_FLOAT8, 1).astype(np.float32)
    fitted = WeightGrid(np.maximum(scale, np.finfo(np.float32).tiny), FLOAT8_BITS, Grid.E4M3, 0.0)
    change = fitted.quantize(weight).dequantize().astype(np.float64) - weight
    return replace(fitted, error=float((change * change).sum()))


def _fit_blocks(weight: npt.NDArray[np.float32], bits: int, grids: Collection[str], block: int) -> WeightGrid:
    """Fit each block of inputs as a row of its own."""
    found = fit_weight_grid(in_blocks(weight, block), bits, grids)
    scale = float16_scales(found.scale).reshape(len(weight), -1)
    fitted = WeightGrid(scale, bits, found.grid, 0.0, block=block)
    change = fitted.quantize(weight).dequantize().astype(np.float64) - weight
    return replace(fitted, error=float((change * change).sum()))


def in_blocks(weight: npt.NDArray[np.float32], block: int) -> npt.NDArray[np.float32]:
    """Return the blocks of all rows as rows, (outputs * blocks, block); zeros fill the last block of a row."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % block))).reshape(-1, block)


def float16_scales(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round scales to numbers of float16 that are not zero."""
    return np.clip(scale, SMALLEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)


def _fit_rows(weight: FloatArray, bits: npt.NDArray[np.integer[Any]], grids: Collection[str]) -> WeightGrid:
    """Fit the rows of each width by themselves."""
    fits = {int(width): fit_weight_grid(weight[bits == width], int(width), grids) for width in np.unique(bits)}
    widest = max(fits)
    if len(fits) == 1:
        return fits[widest]
    scale = np.empty(len(weight), np.float32)
    for width, found in fits.items():
        scale[bits == width] = found.scale
    used = {width: found.grid for width, found in fits.items()}
    error = sum(found.error for found in fits.values())
    return WeightGrid(scale, widest, used[widest], error, RowWidths(bits.astype(np.int8), used))


def _fit(weight: npt.NDArray[np.float32], exponent: npt.NDArray[np.int32], bits: int, grid: Grid) -> WeightGrid:
    """Fit a grid to ``weight`` * 2^exponent, whose channels have a largest magnitude of 1/2 to 1, or 0."""
    tiny = np.finfo(np.float32).tiny
    largest = np.abs(weight).max(axis=1)
    full = np.maximum(largest / grid.top(bits), tiny).astype(np.float32)
    best_scale, best_error = full, _errors(weight, full, bits, grid)
    starts = SEARCH_RATIOS if bits > 1 else SEARCH_RATIOS[:1]
    for ratio in starts:
        scale = np.maximum(full * np.float32(ratio), tiny).astype(np.float32)
        error = _errors(weight, scale, bits, grid)
        better = error < best_error
        best_scale = np.where(better, scale, best_scale)
        best_error = np.where(better, error, best_error)
    for _ in range(REFINEMENTS):
        levels = grid.level(grid.codes_of(weight / best_scale[:, None], bits), bits).astype(np.float32)
        power = np.einsum("oi,oi->o", levels, levels)
        fitted = np.einsum("oi,oi->o", weight, levels) / np.maximum(power, 1)
        scale = np.where(fitted > tiny, fitted, best_scale).astype(np.float32)
        error = _errors(weight, scale, bits, grid)
        better = error < best_error
        if not better.any():
            break
        best_scale = np.where(better, scale, best_scale)
        best_error = np.where(better, error, best_error)
    best_scale = np.maximum(np.ldexp(best_scale.astype(np.float32), exponent), tiny)
    total = float(np.sum(np.ldexp(best_error.astype(np.float64), 2 * exponent)))
    # A channel of zeros needs no particular scale; 1 keeps products with the activation scale away from underflow.
    if grid is Grid.MID_TREAD:
        best_scale = np.where(largest == 0, np.float32(1), best_scale)
    return WeightGrid(scale=best_scale.astype(np.float32), bits=bits, grid=grid, error=total)


def _errors(weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], bits: int, grid: Grid) -> FloatArray:
    """Return the squared error of each channel, (outputs,)."""
    ratio = weight / scale[:, None]
    if grid is Grid.MID_RISE:
        level = np.floor(ratio * 0.5)
        np.clip(level, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, out=level)
        level *= 2
        level += 1
    else:
        level = np.rint(ratio)
        np.clip(level, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, out=level)
    ratio -= level
    error: FloatArray = np.einsum("oi,oi->o", ratio, ratio) * (scale * scale)
    return error
