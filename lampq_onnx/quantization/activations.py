"""Activation quantizers: asymmetric, one scale and zero_point per tensor, with ranges from streamed histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lampq_onnx.quantization.grids import FLOAT8_BITS, LARGEST_FLOAT8, Grid, float8_codes

FloatArray = npt.NDArray[np.floating[Any]]

PERCENTILES = (99.9, 99.99, 99.999)
"""Two-sided coverages, in percent, of the percentile candidates."""

MSE_SHRINKS = np.linspace(0.05, 1.0, 96)
"""Fractions of the min-max interval that the MSE candidate is searched over."""


@dataclass(frozen=True)
class ActivationQuantizer:
    """x -> clamp(round(x / scale) + zero_point, 0, 2^bits - 1), as QuantizeLinear with saturation.

    Attributes:
        scale: step between levels, a float32 value.
        zero_point: level of the value 0, in 0 .. 2^bits - 1.
        bits: width, 2 to 16.
        float8: the levels are the numbers of float8 E4M3 instead, from -448 to 448 scales; the zero point is 0.
    """

    scale: float
    zero_point: int
    bits: int
    float8: bool = False

    @classmethod
    def from_range(cls, low: float, high: float, bits: int) -> Self:
        """Cover [min(low, 0), max(high, 0)] with 2^bits levels; an empty interval gives scale 1.

        Args:
            low: smallest value to cover.
            high: largest value to cover.
            bits: width, 2 to 16.
        """
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        top = 2**bits - 1
        scale = np.float32((high - low) / top)
        if not scale >= np.finfo(np.float32).tiny:
            return cls(scale=1.0, zero_point=0, bits=bits)
        zero_point = int(np.clip(np.rint(-low / float(scale)), 0, top))
        return cls(scale=float(scale), zero_point=zero_point, bits=bits)

    @classmethod
    def symmetric(cls, low: float, high: float, bits: int) -> Self:
        """Cover [-m, m], m the larger magnitude, with zero at the level that is 0 in a signed type.

        Args:
            low: smallest value to cover.
            high: largest value to cover.
            bits: width, 2 to 16.
        """
        middle = 2 ** (bits - 1)
        scale = np.float32(max(abs(low), abs(high)) / (middle - 1))
        if not scale >= np.finfo(np.float32).tiny:
            scale = np.float32(1)
        return cls(scale=float(scale), zero_point=middle, bits=bits)

    @classmethod
    def of_float8(cls, low: float, high: float) -> Self:
        """Cover [-m, m], m the larger magnitude, with the numbers of float8 E4M3.

        Args:
            low: smallest value to cover.
            high: largest value to cover.
        """
        scale = np.float32(max(abs(low), abs(high)) / LARGEST_FLOAT8)
        if not scale >= np.finfo(np.float32).tiny:
            scale = np.float32(1)
        return cls(scale=float(scale), zero_point=0, bits=FLOAT8_BITS, float8=True)

    @property
    def low(self) -> np.float32:
        """Smallest value that can be represented."""
        return np.float32(-LARGEST_FLOAT8 if self.float8 else -self.zero_point) * np.float32(self.scale)

    @property
    def high(self) -> np.float32:
        """Largest value that can be represented."""
        top = LARGEST_FLOAT8 if self.float8 else 2**self.bits - 1 - self.zero_point
        return np.float32(top) * np.float32(self.scale)

    def fake(self, values: FloatArray) -> npt.NDArray[np.float32]:
        """Quantize and dequantize, float32 in and out.

        Args:
            values: float, any shape.

        Returns:
            float32 of the same shape.
        """
        scale = np.float32(self.scale)
        if self.float8:
            codes = float8_codes(values.astype(np.float32, copy=False) / scale)
            return Grid.E4M3.values(codes, self.bits) * scale
        level = np.rint(values.astype(np.float32, copy=False) / scale)
        np.clip(level, -self.zero_point, 2**self.bits - 1 - self.zero_point, out=level)
        result: npt.NDArray[np.float32] = (level * scale).astype(np.float32)
        return result


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins; memory does not depend on how many values were counted.

    Attributes:
        low: smallest value.
        high: largest value.
        counts: float64 (bins,).
        bins: lower edge of the first bin and upper edge of the last; None: the bins span low to high.
    """

    low: float
    high: float
    counts: npt.NDArray[np.float64]
    bins: tuple[float, float] | None = None

    def edges(self) -> FloatArray:
        """Return the edges of all bins, (bins + 1,)."""
        edges: FloatArray = np.linspace(*(self.bins or (self.low, self.high)), len(self.counts) + 1)
        return edges

    def percentile_range(self, coverage: float) -> tuple[float, float]:
        """Return the interval that leaves (100 - coverage) / 2 percent of the values on either side."""
        edges = self.edges()
        share = np.concatenate([[0.0], np.cumsum(self.counts)]) / max(self.counts.sum(), 1.0)
        tail = (1 - coverage / 100) / 2
        low = float(np.interp(tail, share, edges))
        high = float(np.interp(1 - tail, share, edges))
        return max(low, self.low), min(high, self.high)

    def mse_range(self, bits: int) -> tuple[float, float]:
        """Return the interval with the smallest expected squared error among shrunken min-max intervals."""
        edges = self.edges()
        centers, width = np.clip((edges[:-1] + edges[1:]) / 2, self.low, self.high), edges[1] - edges[0]
        best, best_error = (self.low, self.high), np.inf
        for shrink in MSE_SHRINKS:
            quantizer = ActivationQuantizer.from_range(self.low * shrink, self.high * shrink, bits)
            clipped = np.clip(centers, quantizer.low, quantizer.high)
            # Inside the range the error is uniform over a step, unless a bin is wider than the step.
            rounding = max(quantizer.scale**2, width**2) / 12
            error = float(np.sum(self.counts * ((centers - clipped) ** 2 + rounding)))
            if error < best_error:
                best, best_error = (self.low * float(shrink), self.high * float(shrink)), error
        return best


MIN_MAX = "minmax"
"""Name of the method whose interval clips nothing."""

NARROW_SHRINKS = (0.8, 0.6, 0.45, 0.3)
"""Fractions of the min-max interval that are candidates below 8 bits, where clipping pays off."""


HEADROOM = 4.0
"""Factor of the min-max interval above 8 bits, where two bits can be spared for larger values of other images: DeiT-Ti
with W8/A16, calibrated on 64 images, has a KL to float of .0038 without this, .0009 with 1.5 and .0008 with 2 or 4."""


def with_headroom(low: float, high: float, bits: int) -> tuple[float, float]:
    """Return the interval that a width covers of a measured one: above 8 bits, `HEADROOM` times it."""
    room = HEADROOM if bits > 8 else 1.0
    return room * low, room * high


def candidate_ranges(histogram: Histogram, bits: int) -> dict[str, tuple[float, float]]:
    """Return intervals to choose from, by method name; min-max comes first, and is the only one above 8 bits.

    The largest values of the inputs of some layers (massive activations) differ much between images. Above 8 bits the
    interval is wider than what the images show, see `with_headroom`.
    """
    ranges = {MIN_MAX: with_headroom(histogram.low, histogram.high, bits)}
    if bits > 8 or histogram.counts.sum() <= 0 or histogram.high <= histogram.low:
        return ranges
    ranges |= {f"percentile-{p}": histogram.percentile_range(p) for p in PERCENTILES}
    ranges["mse"] = histogram.mse_range(bits)
    if bits < 8:
        ranges |= {f"shrink-{part}": (part * histogram.low, part * histogram.high) for part in NARROW_SHRINKS}
    return ranges
