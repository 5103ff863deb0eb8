"""How long the stages of a run are expected to take: as long as last time, or by the size of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.stage_times import earlier_times
from lampq_onnx.running.forecast import Forecast

REFERENCE = 5_700_000
"""Parameters of the model (DeiT-Ti) that `_SECONDS` are for."""

FIXED = frozenset({"load", "calibration images", "latency", "allocation", "conversion"})
"""Stages whose seconds hardly depend on the size of the model."""

_SECONDS = {
    "load": 2.0,
    "calibration images": 2.0,
    "synthetic images": 60.0,
    "export": 5.0,
    "equalization": 20.0,
    "input moments": 5.0,
    "ranges": 8.0,
    "traces": 8.0,
    "weight errors": 10.0,
    "nuclear norms": 3.0,
    "alpha": 10.0,
    "cost candidates": 12.0,
    "costs": 50.0,
    "input costs": 12.0,
    "simulated plans": 10.0,
    "allocation": 1.0,
    "iterative update": 20.0,
    "rounding": 20.0,
    "block reconstruction": 500.0,
    "tuning": 700.0,
    "conversion": 3.0,
    "validation": 40.0,
    "fidelity": 10.0,
    "latency": 5.0,
    "output errors": 6.0,
    "reconstruction errors": 10.0,
    "point": 45.0,
}
"""Stage -> seconds for a DeiT-Ti on two cores, 128 images of calibration and 650 of validation. The shares matter: how
fast a machine is shows in its first stages."""


def quantize_forecast(recipe: Recipe) -> Forecast:
    """Return the expected stages of `quantize`."""
    compared = [stage for metric in recipe.output.baselines for stage in ("rounding", f"baseline {metric}")]
    checks = ("validation", "fidelity", "latency", "output errors", "reconstruction errors")
    stages = [*_analysis(recipe), *_decision(recipe), "conversion", *checks, *compared]
    return _forecast(run_name("quantize", recipe), stages)


def analyze_forecast(recipe: Recipe) -> Forecast:
    """Return the expected stages of `analyze`."""
    return _forecast(run_name("analyze", recipe), _analysis(recipe))


def sweep_forecast(recipe: Recipe, bits: Sequence[float], metrics: Sequence[str]) -> Forecast:
    """Return the expected stages of `sweep`, with a point for each metric and budget."""
    stages = _analysis(recipe)
    for metric in metrics:
        for budget in bits:
            own = _decision(recipe) if metric == recipe.allocation.metric else ["allocation", "rounding"]
            stages += [*own, f"{metric} {budget:g} bits"]
    return _forecast(run_name("sweep", recipe), stages)


def validate_forecast(path: object) -> Forecast:
    """Return the expected stages of `validate` on a file."""
    return _forecast(f"validate {path}", ["validation", "fidelity", "latency", "output errors"])


def run_name(command: str, recipe: Recipe) -> str:
    """Return the name under which the times of a run are kept."""
    return f"{command} {recipe.model.name} {recipe.analysis.effort} {recipe.model.device}"


def _analysis(recipe: Recipe) -> list[str]:
    """Stages up to the sensitivities."""
    analysis = recipe.analysis
    stages = ["load", "calibration images", "export"]
    if isinstance(recipe.images.calibration, str):
        stages += ["synthetic images"]
    if analysis.equalize:
        stages += ["equalization", "export"]
    if recipe.rounding.method == "gptq":
        stages += ["input moments"]
    stages += ["ranges", "traces", "weight errors", "nuclear norms", "alpha", "cost candidates"]
    if analysis.effort != "fast":
        stages += ["costs"]
    return [*stages, "input costs"]


def _decision(recipe: Recipe) -> list[str]:
    """Stages from the sensitivities to rounded weights."""
    stages = ["allocation"]
    if recipe.update.rounds:
        stages += ["iterative update"]
    stages += ["rounding"]
    if recipe.analysis.effort == "best":
        stages += ["block reconstruction", "tuning"]
    return stages


def _forecast(run: str, stages: Iterable[str]) -> Forecast:
    calls: Counter[str] = Counter()
    expected: dict[str, float] = {}
    for stage in stages:
        calls[stage] += 1
        key = stage if calls[stage] == 1 else f"{stage}#{calls[stage]}"
        expected[key] = _SECONDS.get(stage, _SECONDS["point"] if stage.endswith(" bits") else _SECONDS["validation"])
    known = earlier_times(run)
    both = expected.keys() & known.keys()
    if not both:
        return Forecast(expected, FIXED, REFERENCE)
    # What was not run last time takes as much longer or shorter as the rest did.
    factor = math.fsum(known[key] for key in both) / math.fsum(expected[key] for key in both)
    return Forecast({key: known.get(key, seconds * factor) for key, seconds in expected.items()}, FIXED)
