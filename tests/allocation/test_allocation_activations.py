"""Widths of inputs: their own under a second budget, those of the weights, and 16 bits where 8 do not do."""

from __future__ import annotations

import itertools
import math

import pytest

from lampq_onnx.allocation import (
    DEFAULTS,
    METRICS,
    AllocationOptions,
    allocate,
    parse_activation_candidates,
    wide_layers,
)
from lampq_onnx.allocation.activations import inputs_for
from lampq_onnx.allocation.allocate import layer_plan
from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.timed import LEAST_ROWS
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.quantization.activations import HEADROOM
from lampq_onnx.targets import TARGETS

WIDTHS = (4, 6, 8, 16)


@pytest.fixture
def measured(make_sensitivities):
    """Layers whose inputs cost 4^-A times a factor, with 50 tokens."""

    def make(blocks: int = 2, factor: float = 0.1, **changes):
        sensitivities = make_sensitivities(blocks=blocks, **changes)
        layers = tuple(
            layer.model_copy(
                update={
                    "activation_cost": {bits: factor * (1 + i % 5) * 4.0**-bits for bits in (2, 3, *range(4, 9), 16)},
                    "activation_elements": 50 * layer.shape[1],
                    "activation_ranges": {4: ActivationRange(low=-0.5, high=0.5), 16: ActivationRange(low=-9, high=9)},
                }
            )
            for i, layer in enumerate(sensitivities.layers)
        )
        return sensitivities.model_copy(update={"layers": layers})

    return make


def change(sensitivities, index: int, **update):
    layers = list(sensitivities.layers)
    layers[index] = layers[index].model_copy(update=update)
    return sensitivities.model_copy(update={"layers": tuple(layers)})


def test_mixed_against_brute_force(measured):
    sensitivities = measured(blocks=1)
    layers = sensitivities.layers[:4]
    plan, solution = allocate(
        sensitivities,
        AllocationOptions(
            bits=4,
            candidates=(2, 4, 8),
            metric="kl",
            activation_bits="mixed",
            activation_budget=7,
            activation_candidates=(4, 8, 16),
        ),
    )
    weights = sum(model_layer.parameters for model_layer in layers)
    elements = sum(model_layer.activation_elements for model_layer in layers)
    best = math.inf
    table = METRICS["kl"](sensitivities, (2, 4, 8), 4.0)
    costs = {
        model_layer.name: dict(zip((2, 4, 8), row, strict=True)) for model_layer, row in zip(layers, table, strict=True)
    }
    pairs = list(itertools.product((2, 4, 8), (4, 8, 16)))
    for choice in itertools.product(pairs, repeat=4):
        taken = list(zip(layers, choice, strict=True))
        if sum(u.parameters * w for u, (w, _) in taken) > 4 * weights:
            continue
        if sum(u.activation_elements * a for u, (_, a) in taken) > 7 * elements:
            continue
        best = min(best, sum(costs[u.name][w] + u.activation_cost[a] for u, (w, a) in taken))
    assert solution.proven_optimal
    assert solution.objective == pytest.approx(best, rel=1e-12)
    assert {n: layer.activation_bits for n, layer in plan.layers.items() if not layer.fixed} == solution.activation_bits
    assert (plan.budget, plan.activation_budget) == (4, 7)
    assert plan.weight_average() <= 4
    assert plan.activation_average() <= 7
    assert plan.layers["head"].activation_bits == 8


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_mixed_weights_are_those_of_the_weights_alone(measured, metric):
    """Costs add up and each width has its own budget: neither may take from the other, whatever the metric's unit."""
    sensitivities = measured(blocks=3)
    for tiny in (1.0, 1e-9):
        scaled = sensitivities.model_copy(update={"alpha": {k: v * tiny for k, v in sensitivities.alpha.items()}})
        plan, _ = allocate(
            scaled, AllocationOptions(bits=3.3, metric=metric, activation_bits="mixed", activation_budget=6.5)
        )
        alone, _ = allocate(scaled, AllocationOptions(bits=3.3, metric=metric))
        table = METRICS[metric](scaled, tuple(range(2, 9)), 4.0)

        def cost(found: BitPlan, table=table) -> float:
            widths = [layer.weight_bits for layer in found.layers.values() if not layer.fixed]
            return math.fsum(row[bits - 2] for row, bits in zip(table, widths, strict=True))

        assert cost(plan) == pytest.approx(cost(alone), rel=1e-7)
        assert plan.activation_average() <= 6.5


def test_mixed_gives_wide_inputs_to_those_that_need_them(measured):
    sensitivities = change(measured(), 3, activation_cost={4: 9.0, 6: 8.0, 8: 5.0, 16: 0.001})
    plan, _ = allocate(sensitivities, AllocationOptions(bits=4, activation_bits="mixed"))
    layer = plan.layers[sensitivities.layers[3].name]
    assert layer.activation_bits == 16
    assert layer.activation_range.high == 9
    assert plan.activation_average() <= 8
    narrow = next(layer for layer in plan.layers.values() if layer.activation_bits == 4)
    assert narrow.activation_range.high == 0.5


@pytest.mark.parametrize("asked", [8, 4, "mixed", "same"])
def test_inputs_that_stay_in_float(measured, asked):
    sensitivities = change(measured(), 2, float_input=True)
    name = sensitivities.layers[2].name
    plan, _ = allocate(sensitivities, AllocationOptions(bits=4, activation_bits=asked))
    layer = plan.layers[name]
    assert (layer.activation_bits, layer.activation_range, layer.quantized) == (32, None, True)
    assert all(other.activation_bits <= 16 for model_layer, other in plan.layers.items() if model_layer != name)
    assert plan.activation_average() <= 8
    quantized, _ = allocate(
        inputs_for(sensitivities, TARGETS["tensorrt"]), AllocationOptions(bits=4, activation_bits=asked)
    )
    assert quantized.layers[name].activation_bits <= 16


def test_mixed_leaves_the_budget_to_inputs_that_are_quantized(measured):
    sensitivities = change(measured(blocks=1), 2, float_input=True)
    layers = [layer for layer in sensitivities.layers if not layer.fixed and not layer.float_input]
    plan, _ = allocate(sensitivities, AllocationOptions(bits=8, activation_bits="mixed", activation_budget=6))
    total = sum(layer.activation_elements for layer in layers)
    used = sum(layer.activation_elements * plan.layers[layer.name].activation_bits for layer in layers)
    assert plan.activation_average() == used / total <= 6
    best = min(
        sum(layer.activation_cost[bits] for layer, bits in zip(layers, choice, strict=True))
        for choice in itertools.product(WIDTHS, repeat=len(layers))
        if sum(u.activation_elements * b for u, b in zip(layers, choice, strict=True)) <= 6 * total
    )
    found = sum(layer.activation_cost[plan.layers[layer.name].activation_bits] for layer in layers)
    assert found == pytest.approx(best, rel=1e-9)


def test_mixed_needs_measured_costs(make_sensitivities, measured):
    with pytest.raises(LampqError, match=r"blocks\.0\.qkv has no activation cost at 4 bits \(measured: no width\)"):
        allocate(make_sensitivities(), AllocationOptions(bits=4, activation_bits="mixed"))
    with pytest.raises(LampqError, match="how many numbers the input of layer blocks\\.0\\.proj"):
        allocate(change(measured(), 1, activation_elements=None), AllocationOptions(bits=4, activation_bits="mixed"))
    with pytest.raises(LampqError, match=r"average of 3 activation bits cannot be met: the smallest candidate is 4"):
        allocate(measured(), AllocationOptions(bits=4, activation_bits="mixed", activation_budget=3))


def test_same_is_the_papers_mode(make_sensitivities):
    sensitivities = make_sensitivities()
    plan, solution = allocate(sensitivities, AllocationOptions(bits=4, metric="lampq", activation_bits="same"))
    weights_only, _ = allocate(sensitivities, AllocationOptions(bits=4, metric="lampq"))
    assert solution.activation_bits == solution.bits
    for name, layer in plan.layers.items():
        assert layer.weight_bits == weights_only.layers[name].weight_bits
        assert layer.activation_bits == layer.weight_bits
    assert plan.activation_budget is None


def test_same_with_measured_costs_counts_the_inputs(measured, make_sensitivities):
    sensitivities = change(measured(), 0, activation_cost={bits: 1e3 * 4.0**-bits for bits in range(2, 9)})
    plan, solution = allocate(sensitivities, AllocationOptions(bits=4, metric="kl", activation_bits="same"))
    assert plan.layers["blocks.0.qkv"].activation_bits == 8
    layers = [layer for layer in sensitivities.layers if not layer.fixed]
    table = METRICS["kl"](sensitivities, tuple(range(2, 9)), 4.0)
    widths = [solution.bits[layer.name] for layer in layers]
    expected = sum(
        row[bits - 2] + layer.activation_cost[bits] for layer, row, bits in zip(layers, table, widths, strict=True)
    )
    assert solution.objective == pytest.approx(expected, rel=1e-12)
    with pytest.raises(LampqError, match="no activation cost at 2 bits"):
        allocate(make_sensitivities(), AllocationOptions(bits=4, metric="kl", activation_bits="same"))


def test_inputs_that_8_bits_cannot_hold_get_16(measured):
    sensitivities = change(measured(factor=1e-4), 2, activation_cost={8: 0.2, 16: 0.001})
    name = sensitivities.layers[2].name
    for asked in ({}, {"activation_bits": 8}):
        plan, solution = allocate(sensitivities, AllocationOptions(bits=4, **asked))
        assert [n for n, layer in plan.layers.items() if layer.activation_bits == 16] == [name]
        assert plan.layers[name].activation_range.high == 9
        assert solution.activation_bits == {}
        assert plan.activation_average() > 8
    never, _ = allocate(sensitivities, AllocationOptions(bits=4, wide_price=math.inf))
    narrow, _ = allocate(sensitivities, AllocationOptions(bits=4, activation_bits=6))
    assert {layer.activation_bits for layer in never.layers.values()} == {8}
    assert {layer.activation_bits for layer in narrow.layers.values() if not layer.fixed} == {6}


def test_the_price_is_for_each_answer(measured):
    sensitivities = measured(blocks=1)
    work = sum(u.parameters * u.activation_elements / u.shape[1] for u in sensitivities.layers if not u.fixed)
    layers = tuple(
        layer.model_copy(
            update={
                "activation_cost": {
                    8: 3 * DEFAULTS.wide_price * layer.parameters * layer.activation_elements / layer.shape[1] / work,
                    16: 0.0,
                }
            }
        )
        for layer in sensitivities.layers
    )
    for answers, wide in ((1, {16}), (2, {16}), (4, {8})):
        changed = sensitivities.model_copy(update={"layers": layers, "answers": answers})
        plan, _ = allocate(changed, AllocationOptions(bits=4))
        assert {own.activation_bits for own in plan.layers.values() if not own.fixed} == wide


def test_the_price_is_a_share_of_the_multiply_adds(measured):
    layers = measured(blocks=1).layers[:4]
    work = [layer.parameters * layer.activation_elements / layer.shape[1] for layer in layers]
    for i, layer in enumerate(layers):
        price = DEFAULTS.wide_price * work[i] / sum(work)
        for saved, wide in ((price * 0.999, False), (price * 1.001, True)):
            costs = {8: 0.5 + saved, 16: 0.5}
            changed = [u.model_copy(update={"activation_cost": costs if u is layer else {}}) for u in layers]
            assert (layer.name in wide_layers(changed, 8, DEFAULTS.wide_price)) is wide
    assert not wide_layers([u.model_copy(update={"activation_cost": {8: 9.0}}) for u in layers], 8, 0.1)
    # A layer of which the file computes one row pays for the few rows that take as long as reading its weights.
    few = layers[0].model_copy(update={"computed_elements": layers[0].shape[1]})
    work[0] = layers[0].parameters * LEAST_ROWS
    for factor, wide in ((0.999, False), (1.001, True)):
        saved = factor * DEFAULTS.wide_price * work[0] / sum(work)
        others = [u.model_copy(update={"activation_cost": {}}) for u in layers[1:]]
        changed = [few.model_copy(update={"activation_cost": {8: saved, 16: 0.0}}), *others]
        assert (few.name in wide_layers(changed, 8, DEFAULTS.wide_price)) is wide
    costly = [u.model_copy(update={"activation_cost": {8: 9.0, 16: 0.0}}) for u in layers]
    assert len(wide_layers(costly, 8, 0.1)) == 4
    assert not wide_layers([costly[0].model_copy(update={"activation_elements": None}), *costly[1:]], 8, 0.1)


def test_activation_averages(measured):
    layers = {
        "a": LayerPlan(weight_bits=2, activation_bits=4, input_elements=300),
        "b": LayerPlan(weight_bits=6, activation_bits=8, input_elements=100),
        "head": LayerPlan(weight_bits=8, activation_bits=8, fixed=True),
    }
    plan = BitPlan(layers=layers)
    assert plan.activation_average() == 5
    assert plan.activation_average_unweighted() == 6
    old = BitPlan(layers={"a": LayerPlan(weight_bits=4, activation_bits=8)})
    assert old.activation_average() is None
    assert old.activation_budget is None
    assert BitPlan.model_validate_json(plan.to_json()) == plan


def test_activation_candidates_are_read():
    assert parse_activation_candidates("16,4-6, 8") == (4, 5, 6, 8, 16)
    for text in ("1,4", "4-16", "32", "", "8-4"):
        with pytest.raises(UsageError, match="candidate widths of activations"):
            parse_activation_candidates(text)


@pytest.mark.parametrize(("bits", "room"), [(8, 1.0), (16, HEADROOM)])
def test_wide_products_cover_more_than_was_measured(measured, bits, room):
    sensitivities = measured(blocks=1)
    layer = sensitivities.layers[1].model_copy(update={"output_range": ActivationRange(low=-2, high=3)})
    found = layer_plan(layer, 4, bits).output_range
    assert (found.low, found.high) == (-2 * room, 3 * room)
    assert layer_plan(layer, 4, 32).output_range is None
