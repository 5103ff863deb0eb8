"""Which stages a run has, by its options."""

from __future__ import annotations

import pytest

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import EVERYTHING, stages_of
from lampq_onnx.targets import TARGETS

VNNI = TARGETS["onnxruntime-x86-vnni"]


def recipe(**sections: dict[str, object]) -> Recipe:
    return Recipe.build({"model": {"name": "digits"}, **sections})


@pytest.mark.parametrize(
    "allocation",
    [
        {"bits": 8.0},
        {"bits": 4.0, "candidates": (4,)},
        {"bits": 2.0},
        {"bits": 4.0, "metric": "uniform"},
        {"bits": 8.0, "activation_bits": "same"},
        {"bits": 8.0, "activation_bits": "mixed", "activation_budget": 16.0},
    ],
)
def test_nothing_is_measured_for_the_only_plan(allocation: dict[str, object]) -> None:
    found = stages_of(recipe(allocation=allocation), VNNI)
    assert not found.measurements
    assert not found.update
    assert not found.simulated_plans
    assert found.input_costs in ("none", "grouped")


@pytest.mark.parametrize(
    ("sections", "measured"),
    [
        ({}, {"weight_cost"}),
        ({"allocation": {"metric": "lampq"}}, {"trace", "alpha"}),
        ({"allocation": {"metric": "fisher"}}, {"trace"}),
        ({"allocation": {"metric": "nuclear-norm"}}, {"nuclear_norm", "weight_error"}),
        ({"allocation": {"metric": "uniform", "bits": 3.5}}, set()),
        ({"output": {"baselines": ("nuclear-norm",)}}, {"weight_cost", "nuclear_norm", "weight_error"}),
        ({"output": {"baselines": ("uniform",)}}, {"weight_cost"}),
        ({"output": {"figures": "all"}}, {"weight_cost", "trace", "alpha"}),
        ({"allocation": {"bits": 8.0}, "budgets": {"max_size": "1MB"}}, {"weight_cost"}),
        ({"allocation": {"metric": "fisher"}, "analysis": {"simulate": True}}, {"trace", "weight_cost"}),
    ],
)
def test_a_metric_needs_its_own_measurements(sections: dict[str, dict[str, object]], measured: set[str]) -> None:
    assert stages_of(recipe(**sections), VNNI).measurements == measured


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({}, True),
        ({"allocation": {"granularity": "group"}}, True),
        ({"allocation": {"granularity": "layer"}}, False),
        ({"allocation": {"activation_bits": "same"}}, False),
        ({"analysis": {"effort": "fast"}}, False),
        ({"analysis": {"effort": "fast"}, "allocation": {"granularity": "group"}}, True),
        ({"output": {"packing": "native"}}, False),
        ({"allocation": {"bits": 8.0}}, False),
    ],
)
def test_shares_of_channels_are_measured_for_groups_alone(sections: dict[str, dict[str, object]], wanted: bool) -> None:
    assert stages_of(recipe(**sections), VNNI).shares is wanted


def test_inputs_are_measured_where_their_widths_are_open() -> None:
    assert stages_of(recipe(), VNNI).input_costs == "grouped"
    assert stages_of(recipe(analysis={"effort": "fast"}), VNNI).input_costs == "estimated"
    assert stages_of(recipe(allocation={"activation_bits": 6}), VNNI).input_costs == "none"
    assert stages_of(recipe(allocation={"wide_price": float("inf")}), VNNI).input_costs == "none"
    assert stages_of(recipe(allocation={"activation_bits": "mixed"}), VNNI).input_costs == "measured"
    assert stages_of(recipe(allocation={"activation_bits": "same"}), VNNI).input_costs == "measured"
    assert stages_of(recipe(budgets={"max_size": "1MB"}), VNNI).input_costs == "measured"


def test_a_sweep_measures_for_all_its_points() -> None:
    options = recipe(allocation={"bits": 8.0})
    assert not stages_of(options, VNNI, bits=(8.0,)).measurements
    assert stages_of(options, VNNI, bits=(4.0, 8.0)).measurements == {"weight_cost"}
    assert stages_of(options, VNNI, metrics=("kl", "fisher"), bits=(4.0, 8.0)).measurements == {"weight_cost", "trace"}


def test_figures_of_the_report_follow_the_effort_unless_they_are_asked_for() -> None:
    assert stages_of(recipe(), VNNI).layer_errors
    assert not stages_of(recipe(analysis={"effort": "fast"}), VNNI).layer_errors
    assert stages_of(recipe(analysis={"effort": "fast"}, output={"figures": "all"}), VNNI).layer_errors
    assert not stages_of(recipe(output={"figures": "few"}), VNNI).layer_errors


def test_moments_of_the_float_model_are_for_gptq_on_it() -> None:
    assert stages_of(recipe(), VNNI).moments
    assert stages_of(recipe(analysis={"effort": "fast"}), VNNI).moments
    assert stages_of(recipe(analysis={"effort": "fast"}, allocation={"bits": 2.0}), VNNI).moments
    for effort in ("fast", "balanced", "best", "max"):
        assert not stages_of(recipe(analysis={"effort": effort}, allocation={"bits": 8.0}), VNNI).moments
    assert not stages_of(recipe(rounding={"method": "nearest"}), VNNI).moments


def test_analyze_measures_what_every_metric_reads() -> None:
    assert EVERYTHING.measurements == {"trace", "alpha", "weight_error", "nuclear_norm", "weight_cost"}
    assert EVERYTHING.input_costs == "measured"


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({}, True),
        ({"allocation": {"granularity": "group"}}, False),
        ({"allocation": {"granularity": "layer"}}, False),
        ({"analysis": {"effort": "fast"}}, False),
        ({"budgets": {"min_agreement": 0.9}}, False),
        ({"budgets": {"max_size": "1MB"}}, True),
        # the shares are measured for the baseline, which has one width for each layer
        ({"allocation": {"metric": "uniform", "bits": 4.0}, "output": {"baselines": ("kl",)}}, False),
    ],
)
def test_images_decide_where_the_plan_of_the_run_leaves_it_open(
    sections: dict[str, dict[str, object]], wanted: bool
) -> None:
    """The rehearsal promises the stage that the search runs."""
    assert stages_of(recipe(**sections), VNNI).compares is wanted
