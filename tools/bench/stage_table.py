"""What is kept of a quantization whose stages were measured, and the tables that are made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

CHECKS = ("simulation", "validation", "fidelity", "latency", "conversion", "output errors")
"""Stages behind the front end: the file is written and checked in the runtime."""

LEAST = 1.0
"""Seconds of a stage whose prediction is worth a look."""


@dataclass
class Run:
    """What was measured of one quantization.

    Attributes:
        label: shape and number of images.
        setting: widths, effort, device, threads and clock.
        parameters: number of parameters of the model.
        images: number of calibration images.
        seconds: stage -> time.
        peaks: stage -> largest resident memory, MB.
        device: stage -> most memory that torch allocated on the GPU, MB.
        passes: seconds of a float pass forward and backward over the calibration images.
        predicted: stage -> seconds that a dry run expects.
        predicted_mb: memory that a dry run expects.
        imports: seconds until the command's modules are imported.
        machine: processor, with the GPU where one was used.
        code: digest of the package's code.
        stage: the stage that runs; empty between stages.
        stopped: why the run did not end; empty if it did.
        limit: seconds after which it was stopped.
    """

    label: str
    setting: str
    parameters: int
    images: int
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    device: dict[str, float] = field(default_factory=dict)
    passes: float = 0.0
    predicted: dict[str, float] = field(default_factory=dict)
    predicted_mb: float = 0.0
    imports: float = 0.0
    machine: str = ""
    code: str = ""
    stage: str = ""
    stopped: str = ""
    limit: float = 0.0

    @property
    def front(self) -> float:
        """Seconds of the front end: all stages but the checks of the file."""
        return math.fsum(s for stage, s in self.seconds.items() if stage not in CHECKS)

    @property
    def whole(self) -> float:
        """Seconds of all stages."""
        return math.fsum(self.seconds.values())


def show(runs: Sequence[Run]) -> None:
    """Print the tables of the runs: time, memory and exponents of each stage; and what was predicted of them."""
    growths = _growths(runs)
    unit = "s / MB / MB on the GPU" if any(run.device for run in runs) else "s / MB"
    _row("stage", [f"{run.label}: {unit}" for run in runs] + [f"exponent over {what}" for what, *_ in growths])
    print("|---" * (len(runs) + len(growths) + 1) + "|")
    for stage in _stages(runs):
        exponents = [_exponent(first.seconds.get(stage), last.seconds.get(stage), by) for _, first, last, by in growths]
        _row(stage, [_cell(run, stage) for run in runs] + exponents)
    ended = [None if run.stopped else run.front for run in runs]
    fronts = dict(zip(map(id, runs), ended, strict=True))
    exponents = [_exponent(fronts[id(first)], fronts[id(last)], by) for _, first, last, by in growths]
    _row("**front end**", [_sum(run, run.front, front=True) for run in runs] + exponents)
    rest = [""] * len(growths)
    _row("all", [_sum(run, run.whole) for run in runs] + rest)
    if any(run.stopped for run in runs):
        _row("did not end", [run.stopped for run in runs] + rest)
    _row("float pass forward and backward", [_seconds(run.passes) if run.passes else "" for run in runs] + rest)
    ratios = [f"{run.front / run.passes:.1f}" if run.passes and not run.stopped else "" for run in runs]
    _row("front end / pass", ratios + rest)
    if any(run.predicted for run in runs):
        print()
        _show_predictions(runs)


def _show_predictions(runs: Sequence[Run]) -> None:
    """Print what a dry run expected, over what was taken; and the stage that it is furthest off for."""
    _row("predicted / taken", [run.label for run in runs])
    print("|---" * (len(runs) + 1) + "|")
    for stage in _stages(runs):
        known = [_known(run).get(stage) for run in runs]
        if any(known):
            _row(stage, ["" if ratio is None else f"{ratio:.2f}" for ratio in known])
    sums = [_seconds(math.fsum(run.predicted.values())) if run.predicted else "" for run in runs]
    _row("all, s", [f"{one} / {_whole(run)}" if one else "" for one, run in zip(sums, runs, strict=True)])
    comparable = [run for run in runs if run.predicted and not run.stopped]
    wholes = {id(run): f"**{math.fsum(run.predicted.values()) / run.whole:.2f}**" for run in comparable}
    _row("all", [wholes.get(id(run), "") for run in runs])
    peaks = [f"{run.predicted_mb:.0f} / {max(run.peaks.values(), default=0.0):.0f}" for run in runs]
    _row("memory, MB", [peak if run.predicted else "" for peak, run in zip(peaks, runs, strict=True)])
    _row("furthest off", [_furthest(run) for run in runs])


def _row(name: str, cells: Sequence[str]) -> None:
    print(f"| {' | '.join([name, *cells])} |")


def _stages(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(stage for run in runs for stage in run.seconds))


def _cell(run: Run, stage: str) -> str:
    if stage not in run.seconds:
        return ""
    gpu = f" / {run.device.get(stage, 0.0):.0f}" if run.device else ""
    return f"{_seconds(run.seconds[stage])} / {run.peaks.get(stage, 0.0):.0f}{gpu}"


def _sum(run: Run, seconds: float, *, front: bool = False) -> str:
    """Seconds and the largest memory of a run, or of its front end; a run that was stopped took more."""
    peaks = [peak for stage, peak in run.peaks.items() if not (front and stage in CHECKS)]
    gpu = f" / {max(run.device.values()):.0f}" if front and run.device else ""
    return f"{'over ' * bool(run.stopped)}{seconds:.1f} / {max(peaks, default=0.0):.0f}{gpu}"


def _whole(run: Run) -> str:
    return f"over {run.whole:.1f}" if run.stopped else f"{run.whole:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if 0 < value < 1 else f"{value:.1f}"


def _growths(runs: Sequence[Run]) -> list[tuple[str, Run, Run, float]]:
    """What grows between runs that have all else in common: its name, first and last run, logarithm of its factor."""
    found = []
    for what, own, other in (("images", "images", "parameters"), ("parameters", "parameters", "images")):
        groups: dict[int, list[Run]] = {}
        for run in (run for run in runs if run.parameters):  # unknown if the dry run was stopped
            groups.setdefault(getattr(run, other), []).append(run)
        group = sorted(max(groups.values(), key=len, default=[]), key=lambda run: getattr(run, own))
        if group and (factor := getattr(group[-1], own) / getattr(group[0], own)) > 1:
            found.append((what, group[0], group[-1], math.log(factor)))
    return found


def _exponent(first: float | None, last: float | None, growth: float) -> str:
    if not first or not last or min(first, last) <= 0.05:
        return ""
    return f"{math.log(last / first) / growth:.2f}"


def _known(run: Run) -> dict[str, float]:
    """Prediction over time of the finished stages that were predicted and are worth a look."""
    return {
        name: run.predicted[name] / taken
        for name, taken in run.seconds.items()
        if run.predicted.get(name, 0.0) > 0 and taken > LEAST
    }


def _furthest(run: Run) -> str:
    """Name the stage whose prediction is off by the largest factor."""
    known = _known(run)
    if not known:
        return ""
    name = max(known, key=lambda stage: abs(math.log(known[stage])))
    return f"{name} {known[name]:.2f}"
