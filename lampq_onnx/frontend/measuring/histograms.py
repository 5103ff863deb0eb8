"""Counts the inputs of layers in one pass, in bins that grow with the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.measuring.visits import visit_inputs
from lampq_onnx.frontend.shared.batching import Images
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.quantization import Histogram
from lampq_onnx.running.processes import ALONE, Group

BINS = 8192
"""Bins of a histogram; values that differ span at least half of them at the end."""

SMALLEST_BIN = 2.0**-22
"""Smallest width of a bin, as a part of the largest magnitude: float32 cannot tell smaller differences."""

FLOAT_EXPONENT = 100
"""Largest magnitude of the exponent of a bin's width that float32 values are divided by."""


class GrowingHistogram:
    """Counts of a stream of values. Bins are multiples of a power of two, and merge in pairs when the range grows.

    The bins and counts at the end do not depend on the batches: bins follow from the smallest and the largest value.

    Attributes:
        low: smallest value so far; infinite before the first.
        high: largest value so far; NaN if a value was NaN or infinite.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self._exponent: int | None = None
        self._first = 0
        self._counts: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, values: torch.Tensor) -> None:
        """Count more values, of any shape."""
        low, high = (float(v) for v in torch.aminmax(values))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not (math.isfinite(low) and math.isfinite(high)):
            self.high = math.nan
        if not math.isfinite(self.high):
            return
        self._coarsen(_exponent(self.low, self.high))
        width = 2.0**self._exponent_now
        first, last = math.floor(low / width), math.floor(high / width)
        numbers = values.float() if abs(self._exponent_now) <= FLOAT_EXPONENT else values.double()
        # Division by a power of two and floor are exact, and histc's own rounding cannot leave the middle of a bin.
        bins = (numbers / width).floor_().add_(0.5)
        self._place(first, torch.histc(bins, last + 1 - first, first, last + 1).double().cpu().numpy())

    def total(self, low: float, high: float) -> npt.NDArray[np.float64]:
        """Counts in the bins of a range that holds all values, float64 (`BINS`,); see `edges`.

        Args:
            low: smallest value of the range.
            high: largest value.
        """
        counts = np.zeros(BINS)
        if self._exponent is not None:
            self._coarsen(_exponent(low, high))
            start = self._first - math.floor(low / 2.0**self._exponent_now)
            counts[start : start + len(self._counts)] = self._counts
        return counts

    @property
    def _exponent_now(self) -> int:
        assert self._exponent is not None
        return self._exponent

    def _coarsen(self, exponent: int) -> None:
        """Merge bins until they are 2^exponent wide."""
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            counts = np.pad(self._counts, (self._first % 2, (self._first + len(self._counts)) % 2))
            self._counts = counts.reshape(-1, 2).sum(1)
            self._first //= 2
            self._exponent += 1

    def _place(self, first: int, counts: npt.NDArray[np.float64]) -> None:
        """Add counts of bins from number ``first`` on."""
        if not len(self._counts):
            self._first, self._counts = first, counts
            return
        start = min(first, self._first)
        stop = max(first + len(counts), self._first + len(self._counts))
        joined = np.zeros(stop - start)
        joined[self._first - start :][: len(self._counts)] += self._counts
        joined[first - start :][: len(counts)] += counts
        self._first, self._counts = start, joined


def _exponent(low: float, high: float) -> int:
    """Exponent of the width of the bins for a range: half of `BINS` to all span it, and fewer one that is tiny."""
    largest = max(abs(low), abs(high), float(np.finfo(np.float32).tiny))
    return math.ceil(math.log2(max((high - low) / (BINS - 2), SMALLEST_BIN * largest)))


def edges(low: float, high: float) -> tuple[float, float]:
    """Lower edge of the first and upper edge of the last of `BINS` bins that count the values of a range."""
    width = 2.0 ** _exponent(low, high)
    first = math.floor(low / width)
    return first * width, (first + BINS) * width


def input_histograms(
    model: torch.nn.Module, layers: Sequence[ModelLayer], images: Images, *, group: Group = ALONE
) -> dict[str, Histogram]:
    """Histograms of all layer inputs: exact minimum and maximum, and counts in bins.

    Returns:
        Layer -> histogram over all images.

    Raises:
        LampqError: a layer reads NaN or infinity.
    """
    found = {layer.name: GrowingHistogram() for layer in layers}
    visit_inputs(model, layers, images, lambda layer, values: found[layer.name].add(values), group=group)
    lows, highs = ({name: getattr(own, side) for name, own in found.items()} for side in ("low", "high"))
    share_extremes(lows, highs, group)
    if not found:
        return {}
    counts = group.sum(np.stack([own.total(lows[name], highs[name]) for name, own in found.items()]))
    return {
        name: Histogram(lows[name], highs[name], own, bins=edges(lows[name], highs[name]))
        for name, own in zip(found, counts, strict=True)
    }


def share_extremes(lows: dict[str, float], highs: dict[str, float], group: Group) -> None:
    """Combine the extremes of all processes, in place.

    Raises:
        LampqError: in every process, if a layer in any process reads or computes NaN or infinity.
    """
    names = list(lows)
    low, high = np.array([lows[n] for n in names]), np.array([highs[n] for n in names])
    # A process without a batch has infinite extremes, which are neutral here; NaN marks a bad input.
    broken = group.max((np.isnan(low) | np.isnan(high)).astype(np.float64))
    if broken.any():
        name = names[int(broken.argmax())]
        raise LampqError(f"layer {name} reads or computes NaN or infinity on the calibration images")
    lows.update(zip(names, (-group.max(-low)).tolist(), strict=True))
    highs.update(zip(names, group.max(high).tolist(), strict=True))
