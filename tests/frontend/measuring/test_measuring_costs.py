"""Costs of single layers against plain forward passes and plain gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.likelihoods.classification import sampled_labels
from lampq_onnx.frontend.measuring.costs import (
    FLOOR,
    _shared,
    _Sums,
    activation_costs,
    directional_costs,
    grouped_activation_costs,
    measured_losses,
    measured_widths,
    weight_costs,
)
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import LiveModel, live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight
from lampq_onnx.running.processes import ALONE
from tests.frontend.tiny_models import images, layers_of, pixels, tiny_vit, untouched

DATA, PIXELS = images(7), pixels(7)
PLAIN = tiny_vit()
"""Never patched; the copies that are changed by hand come from it."""


@dataclass(frozen=True)
class Setup:
    model: torch.nn.Module
    live: LiveModel
    chain: BlockChain
    rounder: WeightRounder


@pytest.fixture(scope="module")
def setup() -> Iterator[Setup]:
    model = tiny_vit()
    layers = layers_of(model)
    linear = [layer for layer in layers if isinstance(layer.module, torch.nn.Linear)]
    rounder = WeightRounder(layers, input_moments(model, linear, images(8, seed=5)), widths=(2, 3, 4, 5, 8))
    chain = BlockChain(model, layers, pixels(1))
    with live_model(model, layers) as live:
        yield Setup(model, live, chain, rounder)
    assert untouched(model)


def mean_kl(changed: torch.nn.Module, model: torch.nn.Module, data: torch.Tensor) -> float:
    p, q = model(data).double().softmax(1), changed(data).double().softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def with_weight(model: torch.nn.Module, name: str, weight: QuantizedWeight) -> torch.nn.Module:
    changed = copy.deepcopy(model)
    module = changed.get_submodule(name)
    module.weight.copy_(torch.from_numpy(weight.dequantize()).reshape(module.weight.shape))
    return changed


def test_measured_costs_are_those_of_a_plain_forward(setup: Setup) -> None:
    layers = layers_of(setup.model)  # patch embedding and head as well: before and after the blocks
    done: list[int] = []
    costs = weight_costs(
        setup.live,
        setup.chain,
        DATA,
        layers,
        setup.rounder,
        (2, 3, 4),
        expected_bits=2,
        batch_size=3,
        progress=done.append,
    )
    assert done == list(range(1, 3 * len(layers) + 1))
    assert set(costs) == {layer.name for layer in layers}
    for layer in layers:
        expected, least = {}, float("inf")
        widest = with_weight(PLAIN, layer.name, setup.rounder.quantized(layer.name, 4))
        half = PIXELS[:6]  # two of three batches
        ratio = mean_kl(widest, PLAIN, PIXELS) / mean_kl(widest, PLAIN, half)
        for bits in (2, 3, 4):
            changed = with_weight(PLAIN, layer.name, setup.rounder.quantized(layer.name, bits))
            whole = mean_kl(changed, PLAIN, PIXELS) if bits == 4 else ratio * mean_kl(changed, PLAIN, half)
            least = min(least, whole)
            expected[bits] = least
        assert costs[layer.name] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert torch.equal(setup.model(PIXELS), PLAIN(PIXELS))


def test_wide_costs_follow_the_rounding_errors(setup: Setup) -> None:
    layers = layers_of(setup.model)[1:3]
    costs = weight_costs(
        setup.live, setup.chain, DATA, layers, setup.rounder, (2, 4, 5, 8), expected_bits=2, batch_size=7
    )
    for layer in layers:
        # tr(dW H dW^T) with the moments that GPTQ used
        same = [u for u in layers_of(PLAIN) if u.name == layer.name]
        hessian = input_moments(PLAIN, same, images(8, seed=5))
        error = {}
        for bits in (4, 5, 8):
            change = torch.from_numpy(setup.rounder.quantized(layer.name, bits).dequantize()) - layer.module.weight
            error[bits] = float((change @ hessian[layer.name] @ change.T).trace())
        for bits in (5, 8):
            assert costs[layer.name][bits] == pytest.approx(costs[layer.name][4] * error[bits] / error[4], rel=1e-3)


def test_one_width_above_the_measured_ones_is_measured(setup: Setup) -> None:
    layer = layers_of(setup.model)[1]
    costs = weight_costs(setup.live, setup.chain, DATA, [layer], setup.rounder, (5,), expected_bits=2, batch_size=7)
    changed = with_weight(PLAIN, layer.name, setup.rounder.quantized(layer.name, 5))
    assert costs[layer.name][5] == pytest.approx(mean_kl(changed, PLAIN, PIXELS), rel=1e-2)


@pytest.mark.parametrize(
    ("first_seen", "first", "expected"),
    [
        (0.0, 0.0, 0.1),
        (0.0, 0.01, 0.1),
        (1e-9, 1e-6, 0.1),  # float noise: its ratio says nothing
        (0.8, 1.6, 0.1),
        (0.8, 2.4, 0.15),
        (0.8, 0.8, 0.05),  # the other images lose nothing
        (0.1, 10.0, 0.2),  # an outlier among the other images
    ],
)
def test_losses_on_half_of_the_images_stand_for_all(first_seen: float, first: float, expected: float) -> None:
    """A setting that saw 32 of 64 images, each losing 0.1; a wrong scale would favour or punish one width alone."""
    sums = {"layer": [_Sums(first, first, first, 64), _Sums(3.2, first_seen, first, 32)]}
    assert _shared(sums, 64, ALONE)["layer"] == pytest.approx([max(first / 64, FLOOR), expected])


class Both:
    """The group of two processes, the other of which found ``other``."""

    size, rank = 2, 0

    def __init__(self, *other: list[list[float]] | list[int]) -> None:
        self.other = list(other)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + np.array(self.other.pop(0), np.float64)


def test_losses_on_half_of_the_images_of_two_processes_are_those_of_one() -> None:
    """The second process sees no image of the first half, so that only the sums of both have a ratio."""
    whole = {"layer": [_Sums(2.4, 2.4, 2.4, 64), _Sums(3.2, 0.8, 2.4, 32)]}
    part = {"layer": [_Sums(0.8, 0.8, 0.8, 32), _Sums(3.2, 0.8, 0.8, 32)]}
    group: Any = Both([[1.6, 1.6, 1.6, 32], [0, 0, 1.6, 0]], [32])
    assert _shared(part, 32, group)["layer"] == pytest.approx(_shared(whole, 64, ALONE)["layer"])


class Swapped(WeightRounder):
    """Gives the 2-bit weights for 4 bits and the other way round."""

    def quantized(self, name: str, bits: int) -> QuantizedWeight:
        return super().quantized(name, {2: 4, 4: 2}.get(bits, bits))


@pytest.mark.parametrize("directional", [False, True])
def test_costs_never_rise(setup: Setup, directional: bool) -> None:
    layers = layers_of(PLAIN if directional else setup.model)
    swapped, widths = Swapped(layers), (2, 3, 4, 5, 6, 7, 8)
    if directional:
        costs = directional_costs(PLAIN, DATA, layers, swapped, widths, seed=0)
    else:
        costs = weight_costs(setup.live, setup.chain, DATA, layers, swapped, widths, expected_bits=2, batch_size=7)
    for own in costs.values():
        assert list(own) == list(widths)
        assert all(own[b] >= own[b + 1] >= FLOOR for b in widths[:-1])
        assert own[4] == own[3]  # the rise is noise: the cost of the cheaper width stands


@pytest.mark.parametrize("seed", [0, 1])
def test_directional_costs_are_projections_of_each_images_gradient(seed: int) -> None:
    model, layers, data = PLAIN, layers_of(PLAIN), pixels(20)  # two batches
    rounder, widths = WeightRounder(layers), (2, 3, 4)
    costs = directional_costs(model, images(20), layers, rounder, widths, seed=seed)
    assert untouched(model)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([sampled_labels(model(batch), generator) for batch in data.split(16)])
    changes = {
        layer.name: [rounder.dequantized(layer.name, bits) - layer.module.weight for bits in widths] for layer in layers
    }
    plain = copy.deepcopy(model).requires_grad_()
    weights = [plain.get_submodule(layer.name).weight for layer in layers]
    sums = {layer.name: torch.zeros(len(widths), dtype=torch.float64) for layer in layers}
    for image, label in zip(data, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(plain(image[None]), label[None])
        for layer, gradient in zip(layers, torch.autograd.grad(loss, weights), strict=True):
            for k, change in enumerate(changes[layer.name]):
                sums[layer.name][k] += float((gradient * change).sum(dtype=torch.float64)) ** 2
    for layer in layers:
        expected = torch.cummin(sums[layer.name] / (2 * len(data)), 0).values
        found = torch.tensor([costs[layer.name][bits] for bits in widths], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)


def test_directional_costs_are_the_kl_of_small_changes() -> None:
    """With every label's gradient in the place of a sampled one, the form is the KL to second order."""
    model = PLAIN
    layer = next(u for u in layers_of(model) if u.name == "blocks.0.mlp.fc1")
    rounder, data = WeightRounder([layer]), images(400)
    estimate = directional_costs(model, data, [layer], rounder, (6,), seed=0)[layer.name][6]
    exact = mean_kl(with_weight(model, layer.name, rounder.quantized(layer.name, 6)), model, pixels(400))
    assert estimate == pytest.approx(exact, rel=0.25)


def test_activation_costs_are_those_of_a_plain_forward(setup: Setup) -> None:
    layers: Sequence = layers_of(setup.model)
    quantizers = {
        layer.name: {bits: ActivationQuantizer.from_range(-2.5, 3, bits) for bits in (8, 2, 4)} for layer in layers
    }
    costs = activation_costs(setup.live, setup.chain, DATA, quantizers, batch_size=4)
    for layer in layers:
        expected, least = {}, float("inf")
        for bits in (2, 4, 8):
            changed, quantizer = copy.deepcopy(PLAIN), quantizers[layer.name][bits]
            changed.get_submodule(layer.name).register_forward_pre_hook(
                lambda _, x, q=quantizer: (torch.from_numpy(q.fake(x[0].numpy())), *x[1:])
            )
            least = min(least, mean_kl(changed, PLAIN, PIXELS))
            expected[bits] = least
        assert costs[layer.name] == pytest.approx(expected, rel=5e-3, abs=1e-8)


def test_losses_are_those_of_the_model_as_it_stands(setup: Setup) -> None:
    """With another layer quantized already, the reference is that model."""
    first, second = "blocks.0.attn.qkv", "blocks.1.mlp.fc1"
    setup.live.set_weight(first, setup.rounder.quantized(first, 2))
    try:
        settings = {second: [lambda: setup.live.set_weight(second, setup.rounder.quantized(second, 2))]}
        losses = measured_losses(setup.live, setup.chain, DATA, settings, batch_size=7)
    finally:
        setup.live.reset()
    base = with_weight(PLAIN, first, setup.rounder.quantized(first, 2))
    both = with_weight(base, second, setup.rounder.quantized(second, 2))
    assert losses == {second: [pytest.approx(mean_kl(both, base, PIXELS), rel=1e-3)]}


@pytest.mark.parametrize(
    ("candidates", "expected", "measured"),
    [
        ((2, 3, 4, 5, 6, 7, 8), 4.0, (3, 4)),
        ((2, 3, 4, 5, 6, 7, 8), 3.5, (2, 3, 4)),
        ((1, 2, 3, 4), 2.0, (1, 2, 3, 4)),
        ((2, 3, 4, 8), 8.0, (4,)),
        ((5, 8), 6.0, (5,)),
        ((2,), 6.0, (2,)),
    ],
)
def test_only_widths_near_the_budget_are_measured(
    candidates: tuple[int, ...], expected: float, measured: tuple[int, ...]
) -> None:
    assert measured_widths(candidates, expected) == measured


def test_inputs_are_told_apart_only_where_a_block_costs_enough(setup: Setup) -> None:
    layers = [layer for layer in layers_of(setup.model) if layer.name.startswith("blocks.")]
    quantizers = {layer.name: {4: ActivationQuantizer.from_range(-3, 3, 4)} for layer in layers}
    alone = activation_costs(setup.live, setup.chain, DATA, quantizers, batch_size=4)
    names = [[layer.name for layer in layers if layer.name.startswith(f"blocks.{i}.")] for i in (0, 1)]
    together = []
    for members in names:
        for name in members:
            setup.live.set_input(name, quantizers[name][4])
        together.append(max(mean_kl(setup.model, PLAIN, PIXELS), FLOOR))
        for name in members:
            setup.live.set_input(name, None)
    # In the first block nothing matters; in the second, one layer does.
    matters = dict.fromkeys(names[0], 2 * together[0]) | dict.fromkeys(names[1], 2 * together[1])
    matters[names[1][0]] = together[1] / 2
    found = grouped_activation_costs(setup.live, setup.chain, DATA, quantizers, matters, batch_size=4)
    for name in names[0]:
        assert found[name][4] == pytest.approx(together[0], rel=1e-4)
    assert {name: found[name] for name in names[1]} == {name: alone[name] for name in names[1]}
