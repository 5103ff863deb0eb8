"""Trainable layers: where they start, where they may go, and that what they become is what they computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.frontend.rounding import trainable as trainable_module
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.plan import plan_inputs, with_inputs
from lampq_onnx.frontend.rounding.trainable import RoundingKind, TrainableLayer
from lampq_onnx.frontend.simulation.gptq import gptq_quantize
from lampq_onnx.frontend.simulation.simulate import fake_quantize
from lampq_onnx.quantization import (
    INTEGER_GRIDS,
    ActivationQuantizer,
    Grid,
    QuantizedWeight,
    WeightGrid,
    fit_weight_grid,
)

KINDS: tuple[RoundingKind, ...] = ("straight-through", "adaround")
QUANTIZER = ActivationQuantizer.from_range(-1.5, 2.5, 4)


def layer(
    bits: int, *, grid: Grid | None = None, bias: bool = True, clever: bool = True
) -> tuple[torch.nn.Linear, Rounding]:
    torch.manual_seed(bits)
    module = torch.nn.Linear(24, 10, bias=bias).requires_grad_(False)
    weight = module.weight.numpy()
    found = fit_weight_grid(weight, bits)
    if grid is not None and grid is not found.grid:
        step = np.float32(2 if grid is Grid.MID_TREAD else 0.5)  # steps of mid-rise are two scales
        found = WeightGrid(scale=found.scale * step, bits=bits, grid=grid, error=found.error)
    if not clever:
        return module, Rounding(found.quantize(weight), "nearest", module.weight.clone(), {})
    x = torch.randn(100, 24) @ torch.randn(24, 24)
    result = gptq_quantize(module.weight, [found], x.T @ x)[0]
    return module, Rounding(result.weight, "gptq", result.latent, {})


def quantized_output(
    module: torch.nn.Linear, weight: QuantizedWeight, x: torch.Tensor, quantizer: ActivationQuantizer | None
) -> torch.Tensor:
    bias = module.bias if weight.bias is None else torch.from_numpy(weight.bias)
    seen = x if quantizer is None else fake_quantize(x, quantizer)
    return functional.linear(seen, torch.from_numpy(weight.dequantize()), bias)


def train(trainable: TrainableLayer, *, steps: int, rate: float) -> None:
    """Towards an output that no rounding has."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=rate)
    trainable.train()
    for _ in range(steps):
        x = torch.randn(16, 24, generator=generator)
        loss = (trainable(x) - 100 * torch.randn(16, 10, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", list(INTEGER_GRIDS))
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("quantizer", [None, QUANTIZER])
def test_it_starts_as_the_rounding(
    kind: RoundingKind, grid: Grid, bits: int, quantizer: ActivationQuantizer | None
) -> None:
    if bits == 8 and grid is Grid.MID_RISE:
        pytest.skip("not a grid of 8 bits")
    module, rounding = layer(bits, grid=grid)
    x = torch.randn(50, 24, generator=torch.Generator().manual_seed(0))
    trainable = TrainableLayer(module, rounding, module.bias, quantizer, kind=kind).eval()
    expected = quantized_output(module, rounding.weight, x, quantizer)
    torch.testing.assert_close(trainable(x), expected, rtol=1e-5, atol=1e-5)
    if kind == "straight-through":
        torch.testing.assert_close(trainable.train()(x), expected, rtol=1e-5, atol=1e-5)
    result = trainable.eval().result()
    assert np.array_equal(result.weight.codes, rounding.weight.codes)
    np.testing.assert_array_equal(result.weight.scale, rounding.weight.scale)
    assert (result.weight.bits, result.weight.grid, result.input) == (bits, grid, quantizer)
    np.testing.assert_array_equal(result.weight.bias, module.bias.numpy())


def test_a_corrected_bias_is_where_training_starts() -> None:
    module, rounding = layer(3)
    own = np.arange(10, dtype=np.float32)
    corrected = replace(rounding, weight=replace(rounding.weight, bias=own))
    x = torch.randn(5, 24)
    trainable = TrainableLayer(module, corrected, module.bias, None).eval()
    torch.testing.assert_close(trainable(x), quantized_output(module, corrected.weight, x, None), rtol=1e-5, atol=1e-5)
    bare, rounding = layer(3, bias=False)
    trainable = TrainableLayer(bare, rounding, None, None).eval()
    assert trainable.bias is None
    assert trainable.result().weight.bias is None
    torch.testing.assert_close(trainable(x), quantized_output(bare, rounding.weight, x, None), rtol=1e-5, atol=1e-5)


def test_a_convolution_starts_as_its_rounding() -> None:
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 8, 4, stride=4).requires_grad_(False)
    matrix = module.weight.flatten(1)
    weight = fit_weight_grid(matrix.numpy(), 3).quantize(matrix.numpy())
    x = torch.randn(2, 3, 16, 16)
    for kind in KINDS:
        trainable = TrainableLayer(module, Rounding(weight, "nearest", matrix, {}), module.bias, QUANTIZER, kind=kind)
        expected = functional.conv2d(
            fake_quantize(x, QUANTIZER),
            torch.from_numpy(weight.dequantize()).reshape(8, 3, 4, 4),
            module.bias,
            stride=4,
        )
        torch.testing.assert_close(trainable.eval()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", list(INTEGER_GRIDS))
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_violent_training_stays_on_the_grid(kind: RoundingKind, grid: Grid, bits: int) -> None:
    module, rounding = layer(bits, grid=grid)
    trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER, kind=kind)
    train(trainable, steps=60, rate=0.3)
    result = trainable.eval().result()
    codes = result.weight.codes.astype(int)
    assert codes.min() >= 0
    assert codes.max() <= 2**bits - 1
    assert (codes != rounding.weight.codes).mean() > 0.05  # it did go somewhere
    assert bool((result.weight.scale > 0).all())
    assert np.isfinite(result.weight.scale).all()
    assert result.input is not None
    assert 0 <= result.input.zero_point <= 15
    assert result.input.scale == np.float32(result.input.scale)
    assert result.input != QUANTIZER


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_weights_stay_on_the_grid(kind: RoundingKind) -> None:
    module, rounding = layer(3)
    for value in (1e6, -1e6):
        trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER, kind=kind).eval()
        with torch.no_grad():
            trainable.real.fill_(value)
            trainable.zero.fill_(value)
        result = trainable.result()
        assert result.weight.codes.max() <= 7
        assert result.input.zero_point == (15 if value > 0 else 0)
        if kind == "straight-through":
            assert set(result.weight.codes.ravel()) == {7 if value > 0 else 0}


@pytest.mark.parametrize("grid", list(INTEGER_GRIDS))
@pytest.mark.parametrize("clever", [False, True])
def test_adaround_takes_one_of_the_two_neighbours(grid: Grid, clever: bool) -> None:
    bits = 3
    module, rounding = layer(bits, grid=grid, clever=clever)
    step = rounding.weight.scale[:, None].astype(np.float64) * (2 if grid is Grid.MID_RISE else 1)
    offset = 0.5 if grid is Grid.MID_RISE else 0.0
    place = rounding.latent.numpy() / step - offset + 2 ** (bits - 1)  # in codes
    trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER, kind="adaround")
    train(trainable, steps=60, rate=0.5)
    codes = trainable.eval().result().weight.codes.astype(int)
    inside = (place > 0) & (place < 2**bits - 1) & (np.abs(place - rounding.weight.codes) < 0.48)
    assert inside.mean() > 0.8
    assert bool(((codes == np.floor(place)) | (codes == np.ceil(place)))[inside].all())
    assert {int(c) for c in codes[place >= 2**bits - 1]} <= {2**bits - 2, 2**bits - 1}
    assert {int(c) for c in codes[place <= 0]} <= {0, 1}
    # in training, the shares start where the real weights lie
    start = TrainableLayer(module, rounding, module.bias, None, kind="adaround").train().numbers().detach().numpy()
    np.testing.assert_allclose((start + 2 ** (bits - 1))[inside], place[inside], atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_result_is_what_it_computed(kind: RoundingKind, bits: int) -> None:
    module, rounding = layer(bits)
    trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER, kind=kind)
    train(trainable, steps=40, rate=0.02)
    x = torch.randn(200, 24, generator=torch.Generator().manual_seed(1))
    computed = trainable.eval()(x).detach()
    result = trainable.result()
    expected = quantized_output(module, result.weight, x, result.input)
    differs = (computed - expected).abs().amax(1) > 1e-4  # an input on the very edge between two levels
    assert differs.float().mean() <= 0.02
    matrix = torch.from_numpy(result.weight.dequantize())
    torch.testing.assert_close(trainable.matrix().detach(), matrix, rtol=1e-5, atol=1e-6)
    # and the latent weights are rounded to it, so that another stage can go on from them
    again = WeightGrid(scale=result.weight.scale, bits=bits, grid=result.weight.grid, error=0.0)
    assert (again.quantize(result.latent.numpy()).codes != result.weight.codes).mean() < 0.01
    later = TrainableLayer(module, Rounding(result.weight, "x", result.latent, {}), None, result.input).eval()
    torch.testing.assert_close(later(x).detach(), expected, rtol=1e-4, atol=1e-4)


def test_gradients_pass_through_the_rounding() -> None:
    """Against the LSQ+ formulas: d/d scale by the difference of rounded and real, 1 inside, 0 outside."""
    module, rounding = layer(8)
    trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER)
    scale, zero = QUANTIZER.scale, QUANTIZER.zero_point
    x = torch.tensor([[0.37, -9.0, 9.0, 1.1]], requires_grad=True)
    seen = trainable.quantize_input(x)
    by_input = torch.autograd.grad(seen.sum(), x, retain_graph=True)[0]
    assert by_input.tolist() == [[1, 0, 0, 1]]
    by_scale, by_zero = torch.autograd.grad(seen.sum(), [trainable.log_input_scale, trainable.zero])
    ratio = x.detach()[0].double() / scale
    inside = sum(float(torch.round(r) - r) for r in (ratio[0], ratio[3]))
    expected = scale * (inside + (0 - zero) + (15 - zero))
    assert float(by_scale) == pytest.approx(expected, rel=1e-4)
    assert float(by_zero) == pytest.approx(-2 * scale, rel=1e-5)  # only what is clipped


@pytest.mark.parametrize("kernel", [(4, 4), (2, 8)])
def test_patches_have_the_gradients_of_the_convolution(
    kernel: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 8, kernel, stride=kernel).requires_grad_(False)
    matrix = module.weight.flatten(1)
    rounding = Rounding(fit_weight_grid(matrix.numpy(), 3).quantize(matrix.numpy()), "nearest", matrix, {})
    x, weights = torch.randn(2, 3, 16, 24), torch.randn(2, 8, 16 // kernel[0], 24 // kernel[1])
    found = []
    for patches in (True, False):
        if not patches:
            monkeypatch.setattr(trainable_module, "_is_linear_of_patches", lambda *_: False)
        trainable = TrainableLayer(module, rounding, module.bias, QUANTIZER).train()
        output = trainable(x)
        (output * weights).sum().backward()
        found.append([output.detach(), *(p.grad for p in trainable.parameters() if p.grad is not None)])
    assert len(found[0]) == 6
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_patches_that_overlap_or_leave_a_rest_are_convolved() -> None:
    x = torch.zeros(1, 3, 9, 8)
    for module in (torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.Conv2d(3, 8, 4, stride=4, padding=2)):
        assert not trainable_module._is_linear_of_patches(module, x)
    assert not trainable_module._is_linear_of_patches(torch.nn.Conv2d(3, 8, 4, stride=4), x)
    assert trainable_module._is_linear_of_patches(torch.nn.Conv2d(3, 8, 4, stride=4), x[:, :, :8])


def test_dropped_elements_stay_in_float_in_training_alone() -> None:
    module, rounding = layer(3)
    x = torch.randn(400, 24, generator=torch.Generator().manual_seed(2))
    seen = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        trainable = TrainableLayer(module, rounding, None, QUANTIZER, drop=0.3, generator=generator).train()
        seen.append(trainable.quantize_input(x).detach())
    assert torch.equal(seen[0], seen[1])
    kept, fake = seen[0] == x, fake_quantize(x, QUANTIZER)
    assert kept.float().mean() == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(seen[0][~kept], fake[~kept], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainable.eval().quantize_input(x).detach(), fake, rtol=1e-5, atol=1e-6)


def plan_of(quantizer: ActivationQuantizer) -> BitPlan:
    layers = {
        name: LayerPlan(weight_bits=4, activation_bits=quantizer.bits, activation_range=ActivationRange(low=-3, high=4))
        for name in "ab"
    }
    return BitPlan(layers=layers)


def through_plan(quantizer: ActivationQuantizer) -> ActivationQuantizer:
    plan = plan_of(quantizer)
    known = plan_inputs(plan)
    changed = with_inputs(plan, {"a": quantizer, "b": known["b"]})
    assert changed.layers["a"].activation_range.method == "tuned"
    assert changed.layers["b"] == plan.layers["b"]
    found = plan_inputs(BitPlan.model_validate_json(changed.to_json()))
    assert found["b"] == known["b"]
    return found["a"]


def random_quantizers(bits: int) -> list[ActivationQuantizer]:
    random = np.random.default_rng(bits)
    return [
        ActivationQuantizer(
            scale=float(np.float32(10.0 ** random.uniform(-6, 3))),
            zero_point=int(random.integers(0, 2**bits)),
            bits=bits,
        )
        for _ in range(300)
    ]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_quantizers_survive_the_plan(bits: int) -> None:
    for quantizer in random_quantizers(bits):
        assert through_plan(quantizer) == quantizer


def test_plans_leave_out_what_is_in_float() -> None:
    interval = ActivationRange(low=-1, high=1)
    layers = {
        "a": LayerPlan(weight_bits=4, activation_bits=8, activation_range=interval),
        "weights": LayerPlan(weight_bits=4, activation_bits=32, activation_range=interval),
        "float": LayerPlan(weight_bits=32, activation_bits=32, activation_range=interval),
        "unknown": LayerPlan(weight_bits=4, activation_bits=8),
    }
    plan = BitPlan(layers=layers)
    assert plan_inputs(plan) == {"a": ActivationQuantizer.from_range(-1, 1, 8)}
    assert with_inputs(plan, plan_inputs(plan)) == plan
