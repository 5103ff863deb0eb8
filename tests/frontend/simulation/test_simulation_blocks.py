"""Rounding on grids of blocks, on the model's device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.gptq import gptq_quantize
from lampq_onnx.frontend.simulation.grids import fit_weight_grids
from lampq_onnx.frontend.simulation.levels import dequantized, nearest
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import WeightGrid, fit_weight_grid

BLOCK, GRIDS = 16, ("mid-tread",)


def weight(outputs: int = 5, inputs: int = 40) -> torch.Tensor:
    spread = torch.logspace(-2, 0, inputs)[torch.randperm(inputs, generator=torch.Generator().manual_seed(1))]
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) * spread


def hessian(inputs: int = 40) -> torch.Tensor:
    x = torch.randn(200, inputs, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.1, 2, inputs)
    return x.T @ x / 200


def test_the_search_on_the_device_finds_what_numpy_finds() -> None:
    for bits, found in zip((2, 4, 8), fit_weight_grids(weight(), (2, 4, 8), GRIDS, BLOCK), strict=True):
        wanted = fit_weight_grid(weight().numpy(), bits, GRIDS, BLOCK)
        assert found.block == BLOCK
        np.testing.assert_allclose(found.scale, wanted.scale, rtol=2e-3)
        assert found.error == pytest.approx(wanted.error, rel=1e-3)
        rounded = nearest(found, weight())
        np.testing.assert_array_equal(rounded.codes, found.quantize(weight().numpy()).codes)
        np.testing.assert_array_equal(dequantized(rounded, weight()).numpy(), rounded.dequantize())


def gptq_by_hand(matrix: np.ndarray, grid: WeightGrid, h: np.ndarray, damping: float = 0.01) -> np.ndarray:
    """One column after the other, with the inverse computed anew for the columns that are left."""
    h = h + damping * h.diagonal().mean() * np.eye(len(h))
    order = np.argsort(-(h.diagonal()), kind="stable")
    work, done = matrix.astype(np.float64).copy(), np.zeros_like(matrix, np.float64)
    steps, top = grid.steps(matrix.shape[1]).astype(np.float64), 2 ** (grid.bits - 1)
    for place, column in enumerate(order):
        left = order[place:]
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        level = np.clip(np.rint(work[:, column] / steps[:, column]), -top, top - 1) * steps[:, column]
        error = (work[:, column] - level) / inverse[0, 0]
        done[:, column] = level
        work[:, left[1:]] -= error[:, None] * inverse[0, 1:][None]
    return done


@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_rounds_each_column_with_the_scale_of_its_block(bits: int) -> None:
    grid = fit_weight_grid(weight().numpy(), bits, GRIDS, BLOCK)
    (result,) = gptq_quantize(weight(), [grid], hessian())
    by_hand = gptq_by_hand(weight().numpy(), grid, hessian().double().numpy())
    np.testing.assert_allclose(result.weight.dequantize(), by_hand, atol=1e-6)
    change = torch.from_numpy(by_hand) - weight()
    np.testing.assert_allclose(result.errors, (change @ hessian().double() * change).sum(1).numpy(), rtol=1e-3)


def test_several_widths_together_are_what_each_gives_alone() -> None:
    grids = [fit_weight_grid(weight().numpy(), bits, GRIDS, BLOCK) for bits in (4, 8)]
    for grid, result in zip(grids, gptq_quantize(weight(), grids, hessian()), strict=True):
        (alone,) = gptq_quantize(weight(), [grid], hessian())
        np.testing.assert_array_equal(result.weight.codes, alone.weight.codes)


def test_the_rounder_uses_blocks_for_errors_and_weights() -> None:
    module = torch.nn.Linear(40, 5)
    module.weight.data.copy_(weight())
    layer = ModelLayer("fc", "fc1", module, False)
    rows, blocks = WeightRounder([layer], grids=GRIDS), WeightRounder([layer], grids=GRIDS, block=BLOCK)
    assert blocks.quantized("fc", 4).block == BLOCK
    assert blocks.error("fc", 4) < 0.8 * rows.error("fc", 4)
    assert blocks.grid("fc", 4).error == pytest.approx(blocks.error("fc", 4), rel=1e-5)
