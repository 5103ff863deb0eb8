"""A trainable layer whose weights have a scale for each block of inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.trainable import TrainableLayer
from lampq_onnx.quantization import fit_weight_grid

BLOCK = 16


def layer(kind: str) -> tuple[TrainableLayer, torch.nn.Linear, Rounding]:
    """40 inputs: two whole blocks and a half."""
    torch.manual_seed(0)
    module = torch.nn.Linear(40, 6)
    matrix = module.weight.detach().numpy().copy()
    rounded = fit_weight_grid(matrix, 4, ("mid-tread",), BLOCK).quantize(matrix)
    rounding = Rounding(rounded, "nearest", module.weight.detach().clone(), {})
    return TrainableLayer(module, rounding, module.bias.detach(), None, kind=kind), module, rounding  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["straight-through", "adaround"])
def test_before_training_it_is_the_rounding(kind: str) -> None:
    trainable, module, rounding = layer(kind)
    trainable.eval()
    result = trainable.result().weight
    np.testing.assert_array_equal(result.codes, rounding.weight.codes)
    np.testing.assert_array_equal(result.scale, rounding.weight.scale)
    assert result.block == BLOCK
    x = torch.randn(3, 40)
    expected = x @ torch.from_numpy(rounding.weight.dequantize()).T + module.bias
    torch.testing.assert_close(trainable(x), expected)


def test_the_scale_of_a_block_has_the_gradient_of_its_own_weights() -> None:
    trainable, _, rounding = layer("straight-through")
    weights = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    (trainable.matrix() * weights).sum().backward()
    terms = rounding.weight.dequantize() * weights.numpy()
    by_hand = np.stack([terms[:, start : start + BLOCK].sum(1) for start in (0, 16, 32)], 1)
    assert trainable.log_scale.grad is not None
    np.testing.assert_allclose(trainable.log_scale.grad.numpy(), by_hand, rtol=1e-4, atol=1e-5)


def test_the_result_has_the_scales_that_were_trained_as_float16() -> None:
    trainable, _, rounding = layer("straight-through")
    with torch.no_grad():
        trainable.log_scale[:, 1] += 0.1
    scale = trainable.eval().result().weight.scale
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    expected = rounding.weight.scale * np.array([1, np.exp(0.1), 1], np.float32)
    np.testing.assert_allclose(scale, expected, rtol=2**-10)
