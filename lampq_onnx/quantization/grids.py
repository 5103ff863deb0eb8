"""Grids of weights: where the levels of a width lie, in units of the scale."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

MID_RISE_MAX_BITS = 4
"""Widest width with a mid-rise grid. Above it the grids differ by under 1 % in error, and odd integers of 7 bits would
saturate AVX2 kernels."""

FLOAT8_BITS = 8
LARGEST_FLOAT8 = 448
"""Largest number of float8 E4M3."""


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
