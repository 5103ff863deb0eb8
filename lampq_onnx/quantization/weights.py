"""Weight quantizers: symmetric grids per output channel or per block of inputs, with scales of least squared error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

MID_RISE_MAX_BITS = 4
"""Widest width with a mid-rise grid. Above it the grids differ by under 1 % in error, and odd integers of 7 bits would
saturate AVX2 kernels."""

SEARCH_RATIOS = np.linspace(0.1, 1.0, 19)
"""Fractions of the channel's largest magnitude that the search starts from. Optimal clipping lies between 0.4 (2 bits)
and 1 (8 bits) for Gaussian weights, and down to 0.15 at 2 and 3 bits if one weight is 10 times the others."""

REFINEMENTS = 3
"""Number of least-squares updates of the scale after the search; none can raise the error for fixed codes."""


FLOAT8_BITS = 8
LARGEST_FLOAT8 = 448
"""Largest number of float8 E4M3."""

SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)
LARGEST_HALF = float(np.finfo(np.float16).max)


class Grid(StrEnum):
    """Positions of the levels, in units of the scale.

    Both are symmetric in the sense of QuantizeLinear with zero_point 0: a level is an integer times the scale.
    """

    MID_TREAD = "mid-tread"
    """-2^(b-1) ... 2^(b-1)-1: zero is a level."""
    MID_RISE = "mid-rise"
    """-(2^b-1), ..., -1, 1, ..., 2^b-1 (odd integers): all 2^b levels are used on both sides. For Gaussian weights
    the error is 20 % smaller than on the other grid at 2 bits, 8 % at 3 and 3 % at 4, each at its best scale."""
    E4M3 = "e4m3"
    """The 254 numbers of float8 E4M3, up to 448, whose codes are their bits: steps grow with the numbers. Only 8 bits,
    and only where it is asked for by name."""

    def values(self, codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.float32]:
        """Return the levels of codes in units of the scale, float32 of the same shape.

        Args:
            codes: uint8, any shape.
            bits: width, 1 to 8.
        """
        levels = codes.view(ml_dtypes.float8_e4m3fn) if self is Grid.E4M3 else self.level(codes, bits)
        return levels.astype(np.float32)

    def level(self, codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int16]:
        """Return the integer levels of codes 0 .. 2^bits-1; float8 has none.

        Args:
            codes: uint8, any shape.
            bits: width, 1 to 8.

        Returns:
            int16 of the same shape, in units of the scale.
        """
        wide = codes.astype(np.int16)
        levels = 2 * wide - (2**bits - 1) if self is Grid.MID_RISE else wide - 2 ** (bits - 1)
        result: npt.NDArray[np.int16] = levels.astype(np.int16)
        return result

    def top(self, bits: int) -> int:
        """Return the largest positive level.

        Args:
            bits: width, 1 to 8.
        """
        if self is Grid.E4M3:
            return LARGEST_FLOAT8
        return int(2**bits - 1 if self is Grid.MID_RISE else max(2 ** (bits - 1) - 1, 1))

    def codes_of(self, ratio: FloatArray, bits: int) -> npt.NDArray[np.uint8]:
        """Return the codes of the levels nearest to ``ratio`` = weight / scale.

        Args:
            ratio: weight / scale, any shape.
            bits: width, 1 to 8.

        Returns:
            uint8 of the same shape, each below 2^bits.
        """
        if self is Grid.E4M3:
            return float8_codes(ratio)
        nearest = np.floor(ratio * 0.5) if self is Grid.MID_RISE else np.rint(ratio)
        codes: npt.NDArray[np.uint8] = np.clip(nearest + 2 ** (bits - 1), 0, 2**bits - 1).astype(np.uint8)
        return codes


INTEGER_GRIDS = (Grid.MID_TREAD, Grid.MID_RISE)
"""Grids whose levels are integers."""


def float8_codes(ratio: FloatArray) -> npt.NDArray[np.uint8]:
    """Return the bits of the numbers of float8 E4M3 nearest to ``ratio``, uint8; larger numbers become the largest."""
    clipped = np.clip(ratio, -LARGEST_FLOAT8, LARGEST_FLOAT8)
    codes: npt.NDArray[np.uint8] = np.asarray(clipped).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return codes


@dataclass(frozen=True)
class RowWidths:
    """Widths of the rows of one matrix, where they are not all the same.

    Attributes:
        bits: width of each row, int8 (outputs,).
        grids: width -> the grid of all rows that have it.
    """

    bits: npt.NDArray[np.int8]
    grids: Mapping[int, Grid]

    @property
    def widest(self) -> int:
        """The largest width."""
        return int(self.bits.max())


@dataclass(frozen=True)
class RowGroup:
    """Rows of one matrix with the same width and grid.

    Attributes:
        rows: their indices, ascending.
        bits: width, 1..8.
        grid: the integer level that a code stands for.
    """

    rows: npt.NDArray[np.intp]
    bits: int
    grid: Grid


class _ByRow:
    """What weights and grids answer about the widths and scales of their rows."""

    scale: npt.NDArray[np.float32]
    bits: int
    grid: Grid
    widths: RowWidths | None
    block: int | None

    def steps(self, inputs: int) -> npt.NDArray[np.float32]:
        """Return the scale of each weight of a row: (outputs, inputs), or (outputs, 1) where a row has one scale.

        Args:
            inputs: weights of a row.
        """
        if self.block is None:
            return self.scale[:, None]
        return np.repeat(self.scale, self.block, axis=1)[:, :inputs]

    def row_bits(self) -> npt.NDArray[np.int8]:
        """Return the width of each row, int8 (outputs,)."""
        return np.full(len(self.scale), self.bits, np.int8) if self.widths is None else self.widths.bits

    def row_groups(self) -> tuple[RowGroup, ...]:
        """Return the rows of each width, the narrowest first; all rows if they have one width."""
        if self.widths is None:
            return (RowGroup(np.arange(len(self.scale)), self.bits, self.grid),)
        return tuple(
            RowGroup(np.flatnonzero(self.widths.bits == bits), bits, self.widths.grids[bits])
            for bits in sorted(self.widths.grids)
        )

    def row_rises(self) -> npt.NDArray[np.bool_]:
        """Return whether each row has the mid-rise grid, bool (outputs,)."""
        rises = np.zeros(len(self.scale), np.bool_)
        for group in self.row_groups():
            rises[group.rows] = group.grid is Grid.MID_RISE
        return rises


@dataclass(frozen=True)
class QuantizedWeight(_ByRow):
    """A weight matrix as integer codes.

    Attributes:
        codes: uint8 (outputs, inputs), each below 2^bits of its row.
        scale: float32 (outputs,), or (outputs, blocks) if ``block`` is given.
        bits: width, 1..8; the largest one if the rows differ.
        grid: the integer level that a code stands for; that of the widest rows if the rows differ.
        bias: float32 (outputs,) that belongs to this rounding; None: the layer keeps its own.
        widths: widths and grids of the rows; None: all have ``bits`` and ``grid``.
        block: inputs that share a scale, and the last block of a row may be shorter; None: a row has one scale.
    """

    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    bits: int
    grid: Grid
    bias: npt.NDArray[np.float32] | None = None
    widths: RowWidths | None = None
    block: int | None = None

    def integers(self) -> npt.NDArray[np.int8]:
        """Return the levels as int8 (outputs, inputs); a weight of float8 has none."""
        assert self.grid is not Grid.E4M3
        if self.widths is None:
            return self.grid.level(self.codes, self.bits).astype(np.int8)
        levels = np.empty(self.codes.shape, np.int8)
        for group in self.row_groups():
            levels[group.rows] = group.grid.level(self.codes[group.rows], group.bits)
        return levels

    def dequantize(self) -> npt.NDArray[np.float32]:
        """Return float32 (outputs, inputs), exactly as DequantizeLinear computes it."""
        levels = self.grid.values(self.codes, self.bits) if self.widths is None else self.integers().astype(np.float32)
        return levels * self.steps(self.codes.shape[1])


@dataclass(frozen=True)
class WeightGrid(_ByRow):
    """Grid and scales found for one matrix at one width.

    Attributes:
        scale: float32 (outputs,), or (outputs, blocks) if ``block`` is given.
        bits: width, 1..8; the largest one if the rows differ.
        grid: the chosen grid; that of the widest rows if the rows differ.
        error: squared Frobenius norm of the rounding error.
        widths: widths and grids of the rows; None: all have ``bits`` and ``grid``.
        block: inputs that share a scale, see `QuantizedWeight`.
    """

    scale: npt.NDArray[np.float32]
    bits: int
    grid: Grid
    error: float
    widths: RowWidths | None = None
    block: int | None = None

    def quantize(self, weight: FloatArray) -> QuantizedWeight:
        """Round ``weight`` (outputs, inputs) to the nearest levels."""
        codes, steps = np.empty(weight.shape, np.uint8), self.steps(weight.shape[1])
        for group in self.row_groups():
            part = weight[group.rows] / steps[group.rows]
            codes[group.rows] = group.grid.codes_of(part, group.bits)
        return self.with_codes(codes)

    def with_codes(self, codes: npt.NDArray[np.uint8]) -> QuantizedWeight:
        """Return the weight with these ``codes`` (outputs, inputs) on this grid."""
        return QuantizedWeight(codes, self.scale, self.bits, self.grid, widths=self.widths, block=self.block)


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


def usable_grids(bits: int, grids: Collection[str] = INTEGER_GRIDS) -> list[Grid]:
    """List the grids that a width has and ``grids`` allows, the first of equals first.

    Args:
        bits: width, 1..8.
        grids: grids to choose from.

    Raises:
        ValueError: there is none.
    """
    usable = [grid for grid in _grids_at(bits) if grid in grids]
    if not usable:
        raise ValueError(f"{bits}-bit weights have the grid {_grids_at(bits)[0]}, not {' or '.join(grids)}")
    return usable


def _grids_at(bits: int) -> list[Grid]:
    """List the grids that a width has, the first of equals first."""
    if bits == 1:
        return [Grid.MID_RISE]
    if bits <= MID_RISE_MAX_BITS:
        return list(INTEGER_GRIDS)
    return [Grid.MID_TREAD, Grid.E4M3] if bits == FLOAT8_BITS else [Grid.MID_TREAD]


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
