"""How long the stages of a run are expected to take: as long as last time, or by the size of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.stage_times import earlier_times
from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.load import DEIT_TINY

FIXED = frozenset({"load", "calibration images", "latency", "allocation", "conversion"})
"""Stages whose seconds hardly depend on the size of the model."""

OPENING = {"load": 2.0, "calibration images": 2.0, "synthetic images": 60.0, "export": 7.0}
SIMULATION = {"simulation": 8.0}
CHECKS = {"validation": 32.0, "fidelity": 10.0, "latency": 5.0, "output errors": 6.0}
"""Seconds of stages that no dry run lists, for a DeiT-Ti on two cores and 650 images of validation. The shares matter:
how fast a machine is shows in its first stages. `validate` simulates nothing."""


def validate_forecast(path: object) -> Forecast:
    """Return the expected stages of `validate` on a file."""
    return forecast(f"validate {path}", CHECKS.items())


def run_name(command: str, recipe: Recipe) -> str:
    """Return the name under which the times of a run are kept."""
    return f"{command} {recipe.model.name} {recipe.analysis.effort} {recipe.model.device}"


def forecast(run: str, stages: Iterable[tuple[str, float]]) -> Forecast:
    """Return the forecast of a run, by what its stages took last time if that is known.

    Args:
        run: see `run_name`.
        stages: name and seconds of each stage of a DeiT-Ti on two cores, in their order.
    """
    calls: Counter[str] = Counter()
    expected: dict[str, float] = {}
    for stage, seconds in stages:
        calls[stage] += 1
        expected[stage if calls[stage] == 1 else f"{stage}#{calls[stage]}"] = seconds
    known = earlier_times(run)
    both = expected.keys() & known.keys()
    if not both:
        return Forecast(expected, FIXED, round(DEIT_TINY.parameters / 4))
    # What was not run last time takes as much longer or shorter as the rest did.
    factor = math.fsum(known[key] for key in both) / math.fsum(expected[key] for key in both)
    return Forecast({key: known.get(key, seconds * factor) for key, seconds in expected.items()}, FIXED)
