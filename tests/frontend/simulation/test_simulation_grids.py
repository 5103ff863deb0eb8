"""Grids, levels and nearest rounding on the device against the NumPy arithmetic that all stages share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.simulation import grids
from lampq_onnx.frontend.simulation.grids import fit_weight_grids, starts_of
from lampq_onnx.frontend.simulation.levels import dequantized, nearest
from lampq_onnx.quantization import Grid, fit_weight_grid
from lampq_onnx.quantization.fitting import SEARCH_RATIOS

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


def matrix(rows: int = 40, columns: int = 96) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=random) * torch.rand(rows, 1, generator=random)
    weight[3] = 0
    weight[5, 7] *= 12
    weight[6] *= 1e-30
    weight[7] *= 1e30
    return weight


@pytest.mark.parametrize("cached", [96, 1000, 2**17])
def test_grids_are_those_of_numpy_whatever_is_processed_together(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "CACHED", cached)
    weight = matrix()
    for bits, found in zip(WIDTHS, fit_weight_grids(weight, WIDTHS), strict=True):
        wanted = fit_weight_grid(weight.numpy(), bits)
        assert (found.bits, found.grid) == (bits, wanted.grid)
        np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-3)
        assert found.error == pytest.approx(wanted.error, rel=1e-5)


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
@pytest.mark.parametrize("inputs", [64, 768, 3072])
def test_starts_that_are_left_out_cannot_win(bits: int, inputs: int) -> None:
    kept = starts_of(bits, Grid.MID_TREAD, inputs)
    left_out = [ratio for ratio in SEARCH_RATIOS if ratio not in kept]
    assert kept
    # The worst case for full scale: every weight but the largest lies midway between two levels.
    step = 1 / Grid.MID_TREAD.top(bits)
    worst = inputs * (step / 2) ** 2
    assert all((1 - ratio * (1 + step)) ** 2 > worst for ratio in left_out)


def test_weights_are_dequantized_and_rounded_as_in_numpy() -> None:
    weight = matrix()
    rows = np.random.default_rng(0).integers(1, 9, len(weight))
    for grid in [*(fit_weight_grid(weight.numpy(), bits) for bits in WIDTHS), fit_weight_grid(weight.numpy(), rows)]:
        wanted = grid.quantize(weight.numpy())
        found = nearest(grid, weight)
        assert np.array_equal(found.codes, wanted.codes)
        assert np.array_equal(dequantized(found, weight).numpy(), wanted.dequantize())


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_weight_grids(torch.tensor([[1.0, float("nan")]]), (4,))
    with pytest.raises(ValueError, match=r"1\.\.8, not 9"):
        fit_weight_grids(matrix(), (9,))
    with pytest.raises(ValueError, match="non-empty matrix"):
        fit_weight_grids(torch.zeros(3), (4,))
