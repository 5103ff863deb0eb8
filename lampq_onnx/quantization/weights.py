"""Weights as integer codes, and the grids and scales that give them their values, by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lampq_onnx.quantization.grids import FloatArray, Grid


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
        """The largest width of a row."""
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
