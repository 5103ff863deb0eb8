from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.allocation import METRICS, AllocationOptions, allocate, parse_candidates
from lampq_onnx.artifacts import BitPlan
from lampq_onnx.errors import LampqError, UsageError

ALL = tuple(range(2, 9))


def test_metric_tables_against_their_formulas(make_sensitivities):
    sensitivities = make_sensitivities(blocks=1)
    layers = sensitivities.layers[:4]
    # a quarter of what the 4-bit costs would be if every weight mattered alike; 16 times that at 2 bits
    every = sum(layer.weight_cost[4] for layer in layers) / sum(layer.parameters for layer in layers)
    for i, layer in enumerate(layers):
        for k, bits in enumerate((2, 4)):
            expected = {
                "lampq": sensitivities.alpha[layer.type] * layer.trace * 3.0**-bits,
                "fisher": layer.trace * 3.0**-bits,
                "nuclear-norm": layer.nuclear_norm * layer.weight_error[bits],
                "uniform": layer.parameters * 3.0**-bits,
                "kl": layer.weight_cost[bits] + 0.25 * every * layer.parameters * {2: 16, 4: 1}[bits],
                "omega-error": sensitivities.omega(layer) * layer.weight_error[bits] / layer.parameters,
            }
            for name, value in expected.items():
                table = METRICS[name](sensitivities, (2, 4), 3.0)
                assert table.shape == (4, 2)
                assert table[i, k] == pytest.approx(value, rel=1e-14)


def test_kl_is_blended_at_the_candidate_nearest_to_4_bits(make_sensitivities):
    sensitivities = make_sensitivities(blocks=1)
    first, second = sensitivities.layers[:2]
    layers = (
        first.model_copy(update={"parameters": 300, "weight_cost": {2: 9.0, 3: 4.0, 6: 0.5, 8: 0.1}}),
        second.model_copy(update={"parameters": 100, "weight_cost": {2: 3.0, 3: 2.0, 6: 0.3, 8: 0.0}}),
    )
    changed = sensitivities.model_copy(update={"layers": layers})
    # 3 is nearest to 4: costs of 6 in all, of which 4.5 and 1.5 by size; a quarter of those, times 4, 1, 1/64, 1/1024
    table = METRICS["kl"](changed, (2, 3, 6, 8), 4.0)
    own = np.array([[9.0, 4.0, 0.5, 0.1], [3.0, 2.0, 0.3, 0.0]])
    even = np.array([[4.5, 1.125, 1.125 / 64, 1.125 / 1024], [1.5, 0.375, 0.375 / 64, 0.375 / 1024]])
    np.testing.assert_allclose(table, own + even, rtol=1e-14)
    # 6 is nearest
    table = METRICS["kl"](changed, (6, 8), 4.0)
    np.testing.assert_allclose(table, own[:, 2:] + [[0.15, 0.15 / 16], [0.05, 0.05 / 16]], rtol=1e-14)
    # one width
    np.testing.assert_allclose(METRICS["kl"](changed, (2,), 4.0), [[9 + 2.25], [3 + 0.75]], rtol=1e-14)


def test_missing_measurements_are_named(make_sensitivities):
    sensitivities = make_sensitivities()
    with pytest.raises(LampqError, match=r"blocks\.0\.qkv has no weight error at 1 bits \(measured: 2, 3"):
        allocate(sensitivities, AllocationOptions(bits=3, candidates=(1, 2, 4), metric="nuclear-norm"))
    with pytest.raises(LampqError, match=r"blocks\.0\.qkv has no weight cost at 1 bits \(measured: 2, 3"):
        allocate(sensitivities, AllocationOptions(bits=3, candidates=(1, 2, 4), metric="kl"))
    without = sensitivities.model_copy(update={"alpha": {"qkv": 1.0, "fc1": 1.0, "fc2": 1.0}})
    with pytest.raises(LampqError, match=r"alpha for type proj of layer blocks\.0\.proj"):
        allocate(without, AllocationOptions(metric="lampq"))


@pytest.mark.parametrize(
    "options",
    [{"bits": 8}, {"bits": 2}, {"bits": 4, "candidates": (4,)}, {"bits": 3, "metric": "uniform"},
     {"bits": 8, "activation_bits": "same"}],
)  # fmt: skip
def test_the_only_plan_needs_no_measurement(make_sensitivities, options):
    sensitivities = make_sensitivities()
    bare = sensitivities.model_copy(
        update={
            "alpha": {},
            "layers": tuple(
                layer.model_copy(update={"trace": None, "nuclear_norm": None, "weight_error": {}, "weight_cost": {}})
                for layer in sensitivities.layers
            ),
        }
    )
    plan, solution = allocate(bare, AllocationOptions.of(**options))
    measured, _ = allocate(sensitivities, AllocationOptions.of(**options))
    assert plan == measured
    assert solution.only
    assert set(solution.bits.values()) == {options["bits"]}
    with pytest.raises(LampqError, match=r"has no weight cost|no Fisher trace"):
        allocate(bare, AllocationOptions(bits=3))
    with pytest.raises(LampqError, match="no Fisher trace of layer"):
        allocate(bare, AllocationOptions(bits=3, metric="fisher"))
    with pytest.raises(LampqError, match="no nuclear norm of layer"):
        allocate(bare, AllocationOptions(bits=3, metric="nuclear-norm"))


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("bits", [2.0, 3.3, 4.0, 8.0])
def test_plan_keeps_budget_and_carries_the_layers(make_sensitivities, metric, bits):
    sensitivities = make_sensitivities()
    plan, solution = allocate(sensitivities, AllocationOptions(bits=bits, metric=metric))
    assert (plan.model, plan.metric, plan.budget) == ("toy", metric, bits)
    assert list(plan.layers) == [model_layer.name for model_layer in sensitivities.layers]
    assert plan.weight_average() <= bits + 1e-12
    assert solution.proven_optimal
    for model_layer in sensitivities.layers:
        layer = plan.layers[model_layer.name]
        assert (layer.type, layer.parameters, layer.fixed) == (
            model_layer.type,
            model_layer.parameters,
            model_layer.fixed,
        )
        assert layer.activation_range == model_layer.activation_range
        assert layer.activation_bits == 8
        assert layer.weight_bits == (8 if model_layer.fixed else solution.bits[model_layer.name])
    assert "head" not in solution.bits
    assert BitPlan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize("bits", range(2, 9))
def test_uniform_metric_gives_uniform_widths(make_sensitivities, bits):
    plan, solution = allocate(make_sensitivities(), AllocationOptions(bits=bits, metric="uniform", fixed_bits=4))
    assert set(solution.bits.values()) == {bits}
    assert plan.layers["head"].weight_bits == 4


@pytest.mark.parametrize("gamma", [2.0, 4.0, 8.0])
def test_gamma_sets_the_spread_of_the_relaxed_optimum(make_sensitivities, gamma):
    """B_i = const + log_gamma(Omega_i / c_i), const from the budget, within a rounding step."""
    sensitivities = make_sensitivities(blocks=12, seed=4)
    layers = sensitivities.layers[:-1]
    # Traces within two bits of the middle, so that no width is clipped at 2 or 8.
    rng = np.random.default_rng(7)
    shift = rng.uniform(-2, 2, len(layers))
    layers = tuple(
        layer.model_copy(
            update={"trace": float(layer.parameters * gamma ** shift[i] / sensitivities.alpha[layer.type])}
        )
        for i, layer in enumerate(layers)
    )
    sensitivities = sensitivities.model_copy(update={"layers": layers})
    _, solution = allocate(sensitivities, AllocationOptions(bits=5, gamma=gamma, metric="lampq"))
    sizes = np.array([layer.parameters for layer in layers])
    relaxed = 5 + shift - (sizes * shift).sum() / sizes.sum()
    found = np.array([solution.bits[layer.name] for layer in layers])
    assert np.abs(found - relaxed).max() < 1.0
    assert np.corrcoef(found, relaxed)[0, 1] > 0.95


def test_widths_of_activations_and_fixed_layers(make_sensitivities):
    plan, _ = allocate(make_sensitivities(), AllocationOptions(bits=4, activation_bits=4, fixed_bits=32))
    head = plan.layers.pop("head")
    assert (head.weight_bits, head.activation_bits) == (32, 32)
    assert {layer.activation_bits for layer in plan.layers.values()} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, "gamma must be above 1 and at most 1024, not 1"),
        ({"gamma": float("nan")}, "gamma"),
        ({"bits": 0.5}, r"bits must be from 1 to 8, not 0\.5"),
        ({"bits": 8.5}, "bits must be from 1 to 8"),
        ({"bits": float("nan")}, "bits must be a finite number"),
        ({"metric": "magic"}, r"metric must be a metric \(lampq, .*\), not 'magic'"),
        ({"candidates": (2, 16)}, "candidate widths"),
        ({"activation_bits": 1}, "activation_bits must be 2, 3, .* mixed or same, not 1"),
        ({"activation_bits": 32}, "activation_bits must be 2, 3, .* mixed or same, not 32"),
        ({"activation_bits": "narrow"}, "mixed or same, not 'narrow'"),
        ({"activation_bits": "same", "candidates": (1, 2, 4)}, "inputs too, which cannot have 1 bit"),
        ({"activation_bits": "mixed", "activation_candidates": (4, 9)}, "activation_candidates"),
        ({"activation_bits": "mixed", "activation_candidates": ()}, "activation_candidates"),
        ({"activation_bits": "mixed", "activation_budget": 17}, "activation_budget must be from 2 to 16, not 17"),
        ({"activation_bits": "mixed", "activation_budget": float("nan")}, "activation_budget"),
        ({"wide_price": 0.0}, "wide_price must be above 0"),
        ({"wide_price": float("nan")}, "wide_price"),
        ({"fixed_bits": 9}, r"fixed_bits must be from 1 to 8, or 32 \(float\), not 9"),
        ({"fixed_bits": 16}, "fixed_bits"),
        ({"time_limit": 0}, "time_limit must be above 0"),
        ({"bitz": 3}, "bitz is not known"),
    ],
)
def test_impossible_requests(make_sensitivities, options, message):
    with pytest.raises(UsageError, match=message):
        allocate(make_sensitivities(), AllocationOptions.of(**({"bits": 4.0} | options)))


def test_a_budget_below_the_candidates(make_sensitivities):
    with pytest.raises(LampqError, match="smallest candidate is 4 bits"):
        allocate(make_sensitivities(), AllocationOptions(bits=3, candidates=(8, 4)))


def test_nothing_to_allocate(make_sensitivities):
    sensitivities = make_sensitivities()
    fixed = sensitivities.model_copy(update={"layers": sensitivities.layers[-1:]})
    with pytest.raises(LampqError, match="toy have no layer in the budget: all layers are fixed"):
        allocate(fixed, AllocationOptions(bits=4))
    twice = sensitivities.model_copy(update={"layers": sensitivities.layers[-1:] * 2 + sensitivities.layers[:1]})
    with pytest.raises(LampqError, match="two layers are named head"):
        allocate(twice, AllocationOptions(bits=4))


@pytest.mark.parametrize(
    ("text", "widths"),
    [("2-8", ALL), ("2,4,8", (2, 4, 8)), ("8, 4,2", (2, 4, 8)), ("4", (4,)), ("1,3-5,4", (1, 3, 4, 5))],
)
def test_candidates_are_read(text, widths):
    assert parse_candidates(text) == widths


@pytest.mark.parametrize("text", ["", "8-2", "0-4", "2-9", "2,,4", "two", "2.5", "-2", "2-", "2-4-8", "²"])
def test_unreadable_candidates(text):
    with pytest.raises(UsageError, match="candidate widths"):
        parse_candidates(text)


def test_options_are_refused_where_they_are_made():
    with pytest.raises(ValueError, match="gamma"):
        AllocationOptions(gamma=1)
    options = AllocationOptions(bits=3, candidates="8,2-4,4")
    assert options.candidates == (2, 3, 4, 8)
    other = options.with_values(metric="lampq", bits=5)
    assert (other.bits, other.metric, other.candidates) == (5, "lampq", (2, 3, 4, 8))
    assert other.model_fields_set == {"bits", "candidates", "metric"}
    with pytest.raises(UsageError, match="bits must be from 1 to 8, not 9"):
        options.with_values(bits=9)


def test_inputs_have_the_width_that_was_measured_if_none_is_given(make_sensitivities):
    six = make_sensitivities().model_copy(update={"activation_bits": 6})
    for options, width in ((AllocationOptions(), 6), (AllocationOptions(activation_bits=8), 8)):
        plan, _ = allocate(six, options)
        assert {layer.activation_bits for layer in plan.layers.values() if not layer.fixed} == {width}
    with pytest.raises(UsageError, match="the sensitivities say 9"):
        allocate(six.model_copy(update={"activation_bits": 9}))


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ({"candidates": (2, 4)}, {(2, 8), (4, 8), (8, 8)}),
        ({"candidates": (2, 4), "activation_bits": "same", "fixed_bits": 32}, {(2, 2), (4, 4), (32, 32)}),
        (
            {"candidates": (4,), "activation_bits": "mixed", "activation_candidates": (6, 16), "fixed_bits": 7},
            {(4, 6), (4, 16), (7, 8)},
        ),
    ],
)
def test_widths_that_may_be_given_out(values, pairs):
    assert set(AllocationOptions(**values).width_pairs) == pairs
