"""Weights whose rows differ in width: each row is what it is in a weight of its width."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.artifacts import ChannelWidths
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.trainable import RoundingKind, TrainableLayer
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.gptq import gptq_quantize
from lampq_onnx.frontend.simulation.row_widths import join_grids, join_weights
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import fit_weight_grid

ROWS = (2, 5, 3, 3, 8, 2, 5, 2, 3)
WIDTHS = ChannelWidths.from_rows(ROWS)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(200, 40) @ torch.randn(40, 40)
    return torch.randn(len(ROWS), 40), x.T @ x


def test_gptq_on_a_mix_rounds_each_row_as_at_its_own_width() -> None:
    weight, hessian = problem()
    grids = {bits: fit_weight_grid(weight.numpy(), bits) for bits in WIDTHS.counts}
    joined = join_grids(WIDTHS, grids)
    mixed = gptq_quantize(weight, [joined], hessian)[0].weight
    for row, bits in enumerate(ROWS):
        alone = gptq_quantize(weight, [grids[bits]], hessian)[0].weight
        assert np.array_equal(mixed.codes[row], alone.codes[row])
        assert np.array_equal(mixed.dequantize()[row], alone.dequantize()[row])
    assert mixed.row_bits().tolist() == list(ROWS)


def test_a_rounder_joins_what_it_rounded_at_each_width() -> None:
    weight, hessian = problem()
    module = torch.nn.Linear(40, len(ROWS)).requires_grad_(False)
    module.weight.copy_(weight)
    rounder = WeightRounder([ModelLayer("a", "fc1", module, False)], {"a": hessian}, widths=(2, 3))
    found = rounder.quantized("a", WIDTHS)
    again = join_weights(WIDTHS, {bits: rounder.quantized("a", bits) for bits in (2, 3, 5, 8)})
    assert np.array_equal(found.codes, again.codes)
    assert torch.equal(rounder.dequantized("a", WIDTHS), torch.from_numpy(again.dequantize()))
    assert rounder.grid("a", WIDTHS).row_bits().tolist() == list(ROWS)
    for row, bits in enumerate(ROWS):
        change = rounder.dequantized("a", bits)[row] - weight[row]
        assert rounder.row_errors("a", bits)[row] == pytest.approx(float(change @ hessian @ change), rel=1e-4)
    assert rounder.row_errors("a", 3).sum() == pytest.approx(rounder.error("a", 3), rel=1e-6)


def test_one_width_for_all_rows_is_that_width() -> None:
    weight, _ = problem()
    grid = fit_weight_grid(weight.numpy(), 3)
    joined = join_grids(ChannelWidths.from_rows([3] * len(ROWS)), {3: grid})
    assert joined.widths is None
    assert np.array_equal(joined.quantize(weight.numpy()).codes, grid.quantize(weight.numpy()).codes)


@pytest.mark.parametrize("kind", ["straight-through", "adaround"])
def test_training_keeps_every_row_within_its_width(kind: RoundingKind) -> None:
    weight, hessian = problem()
    module = torch.nn.Linear(40, len(ROWS)).requires_grad_(False)
    grids = {bits: fit_weight_grid(weight.numpy(), bits) for bits in WIDTHS.counts}
    result = gptq_quantize(weight, [join_grids(WIDTHS, grids)], hessian)[0]
    layer = TrainableLayer(module, Rounding(result.weight, "gptq", result.latent, {}), module.bias, None, kind=kind)
    start = layer.eval().result().weight
    assert np.array_equal(start.codes, result.weight.codes)
    assert np.array_equal(layer.matrix().detach().numpy(), start.dequantize())
    optimizer = torch.optim.Adam(layer.train().parameters(), lr=0.3)
    for _ in range(20):
        x = torch.randn(16, 40)
        loss = (layer(x) - 50 * torch.randn(16, len(ROWS))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = layer.eval().result().weight
    assert not np.array_equal(after.codes, start.codes)
    assert (after.codes < 2 ** np.array(ROWS)[:, None]).all()
    assert after.row_bits().tolist() == list(ROWS)
    assert np.allclose(layer.matrix().detach().numpy(), after.dequantize(), atol=1e-5)
