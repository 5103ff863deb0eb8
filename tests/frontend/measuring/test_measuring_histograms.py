"""Histograms that grow: the same as one made with all values known, whatever the batches are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.measuring.histograms import BINS, GrowingHistogram, edges

STREAMS = {
    "growing": [torch.linspace(-(2.0**i), 3.0**i, 1000) for i in range(8)],
    "widest first": [torch.linspace(-50, 80, 999), torch.linspace(0, 1, 500)],
    "constant, then not": [torch.full((7,), 3.0), torch.linspace(2.9, 3.2, 100)],
    "constant": [torch.full((7,), 0.1), torch.full((2, 3), 0.1)],
    "zeros, then tiny": [torch.zeros(9), torch.full((4,), 1e-30)],
    "far from zero": [torch.linspace(1000, 1000.5, 800), torch.linspace(999, 1000, 800)],
    "one side": [torch.rand(4000, generator=torch.Generator().manual_seed(0)) ** 3 * s for s in (1, 0.3, 20)],
    "huge": [torch.tensor([-1e38, 1e38]), torch.linspace(-1e30, 3e38, 100)],
}


def of(parts: list[torch.Tensor]) -> GrowingHistogram:
    found = GrowingHistogram()
    for part in parts:
        found.add(part)
    return found


@pytest.mark.parametrize("name", STREAMS)
def test_every_value_is_in_its_bin(name: str) -> None:
    parts = STREAMS[name]
    values = torch.cat([part.flatten() for part in parts]).double().numpy()
    found = of(parts)
    assert (found.low, found.high) == (values.min(), values.max())
    counts = found.total(found.low, found.high)
    assert (len(counts), counts.sum()) == (BINS, len(values))
    bins = np.linspace(*edges(found.low, found.high), BINS + 1)
    expected = np.histogram(values, bins)[0]
    assert np.array_equal(counts, expected)
    if found.high - found.low > 1e-3 * max(abs(found.low), abs(found.high)):
        spanned = (found.high - found.low) / (bins[1] - bins[0])
        assert BINS / 2 - 2 <= spanned <= BINS


def test_bins_do_not_depend_on_the_order_of_batches() -> None:
    parts = [part for stream in ("growing", "widest first") for part in STREAMS[stream]]
    first, second = of(parts), of(parts[::-1])
    assert (first.low, first.high) == (second.low, second.high)
    assert np.array_equal(first.total(first.low, first.high), second.total(first.low, first.high))


def test_parts_of_several_processes_add_up() -> None:
    parts = STREAMS["growing"]
    whole, halves = of(parts), (of(parts[::2]), of(parts[1::2]), GrowingHistogram())
    total = sum(half.total(whole.low, whole.high) for half in halves)
    assert np.array_equal(total, whole.total(whole.low, whole.high))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_remembered(bad: float) -> None:
    found = of([torch.tensor([1.0, 2.0]), torch.tensor([bad, 0.0]), torch.tensor([5.0])])
    assert math.isnan(found.high)
