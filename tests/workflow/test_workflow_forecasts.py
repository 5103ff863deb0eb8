"""What a run is expected to take lists the stages that it has, by the names that they have while it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lampq_onnx
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES
from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.load import DEIT_TINY
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.estimates import checking_stages, planned_stages
from lampq_onnx.workflow.expected import validate_forecast
from lampq_onnx.workflow.forecasts import analyze_forecast, quantize_forecast, sweep_forecast


def stages_in_code() -> set[str]:
    """Names of the stages that the package reports, as they stand in its code."""
    package = Path(lampq_onnx.__file__).parent
    return {name for path in package.rglob("*.py") for name in re.findall(r'\.stage\(\s*"([^"]+)"', path.read_text())}


@pytest.fixture(autouse=True)
def no_earlier_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", "")


def recipe(effort: str = "fast", bits: float = 4.0, **output: object) -> Recipe:
    return Recipe.build(
        {
            "model": {"name": "digits"},
            "images": {"calibration_size": 16},
            "allocation": {"bits": bits},
            "analysis": {"effort": effort},
            "output": {"latency_runs": 1, "gate_agreement": 0.0, **output},
        }
    )


def stages(found: Forecast) -> list[str]:
    return [name.partition("#")[0] for name in found._expected]


def test_expected_stages_have_the_names_of_the_code() -> None:
    reported = stages_in_code()
    assert len(reported) > 20
    for effort in ("fast", "balanced", "best", "max"):
        for bits in (4.0, 8.0):
            expected = stages(quantize_forecast(recipe(effort, bits)))
            assert set(expected) <= reported, effort
            assert ("costs" in expected) == (bits < 8)
    assert set(stages(analyze_forecast(recipe()))) <= reported


def test_efforts_and_baselines_add_stages() -> None:
    fast, best = stages(quantize_forecast(recipe())), stages(quantize_forecast(recipe("best")))
    assert {"block reconstruction", "tuning"} <= set(best) - set(fast)
    compared = stages(quantize_forecast(recipe(baselines=("uniform",))))
    assert compared[-2:] == ["rounding", "baseline uniform"]
    assert {"traces", "alpha", "nuclear norms"} <= set(stages(analyze_forecast(recipe())))
    points = stages(sweep_forecast(recipe(), [2, 4], ["kl", "uniform"]))
    assert [name for name in points if name.endswith(" bits")] == [
        "kl 2 bits", "kl 4 bits", "uniform 2 bits", "uniform 4 bits"
    ]  # fmt: skip
    assert points.count("iterative update") == 2
    points = stages(sweep_forecast(recipe("balanced"), [4, 8], ["kl", "uniform"]))
    assert points.count("granularity") == 1  # at 8 bits, and at 4 of "uniform", there is one plan
    assert stages(validate_forecast("x.onnx")) == ["validation", "fidelity", "latency", "output errors"]


def test_more_work_takes_longer() -> None:
    def seconds(one: Recipe, count: int) -> dict[str, float]:
        found = planned_stages(one, stages_of(one, TARGETS["onnxruntime-x86-vnni"]), DEIT_TINY, count)
        return {stage.name: stage.seconds for stage in found}

    few, many = seconds(recipe("balanced"), 32), seconds(recipe("balanced"), 128)
    assert all(many[name] >= few[name] for name in few)
    assert many["costs"] > 1.9 * few["costs"]
    assert sum(seconds(recipe("best"), 128).values()) > 2 * sum(many.values())


def test_eight_bits_everywhere_are_rounded_to_nearest_without_a_pass() -> None:
    def rounding(bits: float, count: int) -> float:
        one = recipe("fast", bits)
        found = planned_stages(one, stages_of(one, TARGETS["onnxruntime-x86-vnni"]), DEIT_TINY, count)
        return next(stage.seconds for stage in found if stage.name == "rounding")

    assert rounding(8.0, 128) == rounding(8.0, 16) < 1.0
    assert rounding(4.0, 128) > rounding(4.0, 16) > rounding(8.0, 16)


def test_images_of_the_validation_are_read() -> None:
    def seconds(reading: float) -> dict[str, float]:
        one = recipe()
        found = checking_stages(one, stages_of(one, TARGETS["onnxruntime-x86-vnni"]), DEIT_TINY, 500, reading)
        return {stage.name: stage.seconds for stage in found}

    slow, fast = seconds(0.01), seconds(0.0)
    assert slow["validation"] - fast["validation"] == pytest.approx(5.0)
    assert slow["simulation"] - fast["simulation"] == pytest.approx(0.01 * FIDELITY_IMAGES)


def test_the_graph_is_written_again_if_channels_were_equalized() -> None:
    names = stages(quantize_forecast(recipe()))
    assert names.count("export") == 2
    assert names.index("equalization") == len(names) - 1 - names[::-1].index("export") - 1


def test_costs_count_the_widths_that_are_measured_and_the_batches_that_they_see() -> None:
    def costs(bits: float, count: int) -> float:
        one = recipe("balanced", bits)
        found = planned_stages(one, stages_of(one, TARGETS["onnxruntime-x86-vnni"]), DEIT_TINY, count)
        return next(stage.seconds for stage in found if stage.name == "costs")

    # Widths 3 and 4 at 4 bits, 2, 3 and 4 at 3 bits; all but the widest see one of two batches.
    assert costs(3.0, 32) / costs(4.0, 32) == pytest.approx(2 / 1.5)
    assert costs(4.0, 32) / costs(4.0, 16) == pytest.approx(2)
    by_hand = 1.15 * 16 * 48 * 1.5 * (13 / 24) * DEIT_TINY.image
    assert costs(4.0, 32) == pytest.approx(by_hand)


def test_equalization_takes_longer_where_options_are_compared() -> None:
    def equalization(bits: float) -> float:
        found = planned_stages(
            recipe("fast", bits), stages_of(recipe("fast", bits), TARGETS["tensorrt"]), DEIT_TINY, 64
        )
        return next(stage.seconds for stage in found if stage.name == "equalization")

    assert equalization(4.0) > 1.2 * equalization(8.0)
