"""The expected stages of the commands that measure a model, before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import EVERYTHING, Stages, shares_channels, stages_of
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.load import DEIT_TINY
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.estimates import deciding_stages, measuring_stages, planned_stages
from lampq_onnx.workflow.expected import CHECKS, OPENING, SIMULATION, forecast, run_name


def quantize_forecast(recipe: Recipe) -> Forecast:
    """Return the expected stages of `quantize`."""
    stages = stages_of(recipe, target_here(recipe.output.target_name))
    planned = [
        (stage.name, stage.seconds) for stage in planned_stages(recipe, stages, DEIT_TINY, calibration_count(recipe))
    ]
    rounding = next(seconds for name, seconds in planned if name == "rounding")
    before = [stage for stage in planned if stage[0] != "reconstruction errors"]
    after = [stage for stage in planned if stage[0] == "reconstruction errors"]  # once the file is checked
    found = [*_opening(recipe), *before, *SIMULATION.items(), *CHECKS.items(), *after]
    for metric in recipe.output.baselines:
        found += [("rounding", rounding), (f"baseline {metric}", CHECKS["validation"])]
    return forecast(run_name("quantize", recipe), found)


def analyze_forecast(recipe: Recipe) -> Forecast:
    """Return the expected stages of `analyze`."""
    options = recipe.allocation
    shares = shares_channels(options.granularity, recipe.analysis.effort, options.activation_bits)
    return forecast(run_name("analyze", recipe), _measured(recipe, replace(EVERYTHING, shares=shares)))


def sweep_forecast(recipe: Recipe, bits: Sequence[float], metrics: Sequence[str]) -> Forecast:
    """Return the expected stages of `sweep`, with a point for each metric and budget."""
    target = target_here(recipe.output.target_name)
    stages = stages_of(recipe, target, metrics=metrics, bits=bits)
    found = _measured(recipe, stages)
    for metric in metrics:
        own = stages if metric == recipe.allocation.metric else replace(stages, update=False)
        for budget in bits:
            point = replace(own, compares=stages_of(recipe, target, metrics=(metric,), bits=(budget,)).compares)
            found += deciding_stages(recipe, point, DEIT_TINY, calibration_count(recipe))
            found.append((f"{metric} {budget:g} bits", CHECKS["validation"]))
    return forecast(run_name("sweep", recipe), found)


def calibration_count(recipe: Recipe) -> int:
    """Return the number of calibration images that a run asks for."""
    return recipe.images.calibration_size or EFFORTS[recipe.analysis.effort].images


def _opening(recipe: Recipe) -> list[tuple[str, float]]:
    """List the stages before the first measurement."""
    made = isinstance(recipe.images.calibration, str)
    return [stage for stage in OPENING.items() if made or stage[0] != "synthetic images"]


def _measured(recipe: Recipe, stages: Stages) -> list[tuple[str, float]]:
    """List the stages up to the sensitivities."""
    found = measuring_stages(recipe, stages, DEIT_TINY, calibration_count(recipe))
    return [*_opening(recipe), *found]
