"""Find the points of a sweep that are worth having, and pick one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lampq_onnx.artifacts.sweep import SweepPoint
from lampq_onnx.errors import LampqError, UsageError


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


_FIGURES: dict[str, Callable[[SweepPoint], float | None]] = {
    "drop": lambda point: point.accuracy.drop_points,
    "top1": lambda point: _percent(getattr(point.accuracy.quantized, "top1", None)),
    "agreement": lambda point: point.accuracy.agreement,
    "kl": lambda point: point.accuracy.kl,
    "size": lambda point: point.megabytes,
    "latency": lambda point: point.measured.latency.quantized_ms if point.measured.latency else None,
    "speedup": lambda point: point.speedup,
    "bits": lambda point: point.bits,
}
"""Figures that --pick knows, in points, points, fraction, nats, MB, ms, ratio to float, bits."""

TIMES = frozenset(["latency", "speedup"])
"""Figures that are missing where nothing was timed."""

_BOUND = re.compile(r"(\w+)\s*(<=|>=)\s*(-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)")
_GOAL = re.compile(r"(min|max)\s+(\w+)")


@dataclass(frozen=True)
class Bound:
    """One condition on a figure."""

    figure: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.value:g}"

    def excess(self, point: SweepPoint) -> float:
        """Return how far the point, which has the figure, is outside; 0 or less: inside."""
        value = _FIGURES[self.figure](point)
        if value is None:
            raise ValueError(f"{point.name} has no {self.figure}")
        return value - self.value if self.sign == "<=" else self.value - value


@dataclass(frozen=True)
class Pick:
    """Conditions, and the figure to minimize or maximize among the points that meet them."""

    text: str
    bounds: tuple[Bound, ...]
    figure: str
    largest: bool

    def choose(self, points: Sequence[SweepPoint]) -> SweepPoint:
        """Return the best point; of equally good ones the one with the smaller KL.

        Points with broken answers, and those without a figure that the choice needs, are left out.

        Raises:
            LampqError: no point has the figures, or none meets the conditions; the message names the nearest one.
        """
        points = sound_points(points)
        if not points:
            raise LampqError(
                "no point can be picked: every file answers with NaN or infinity",
                hint="check the float model's weights",
            )
        for figure in dict.fromkeys((*(bound.figure for bound in self.bounds), self.figure)):
            points = tuple(point for point in points if _FIGURES[figure](point) is not None)
            if not points:
                raise LampqError(
                    f"no point can be picked by {figure}: it was not measured",
                    hint="sweep with --latency-runs above 0" if figure in TIMES else "choose another figure",
                )
        inside = [point for point in points if all(bound.excess(point) <= 0 for bound in self.bounds)]
        if not inside:
            bound = next(b for b in self.bounds if all(b.excess(p) > 0 for p in points) or b is self.bounds[-1])
            near = min(points, key=bound.excess)
            raise LampqError(
                f"no point meets {', '.join(map(str, self.bounds))}; nearest to {bound} is {near.name} "
                f"with {bound.figure} {_FIGURES[bound.figure](near):.4g}",
                hint="loosen the condition, or sweep other --bits",
            )

        def rank(point: SweepPoint) -> tuple[float, float]:
            value = _FIGURES[self.figure](point)
            assert value is not None  # points without it were left out
            return (-value if self.largest else value, point.accuracy.kl)

        return min(inside, key=rank)


def parse_pick(text: str) -> Pick:
    """Parse a choice such as ``drop<=1, min size``.

    Raises:
        UsageError: a figure is unknown, the text cannot be read, or there is not exactly one goal.
    """
    bounds, goals = [], []
    for part in text.split(","):
        if found := _BOUND.fullmatch(part.strip()):
            bounds.append(Bound(found[1], found[2], float(found[3])))
        elif found := _GOAL.fullmatch(part.strip()):
            goals.append((found[2], found[1] == "max"))
        else:
            raise _misread(text, f"cannot read {part.strip()!r}")
    for name in [bound.figure for bound in bounds] + [name for name, _ in goals]:
        if name not in _FIGURES:
            raise _misread(text, f"there is no figure {name!r}")
    if len(goals) != 1:
        raise _misread(text, "it needs exactly one goal (min or max)")
    ((figure, largest),) = goals
    return Pick(text, tuple(bounds), figure, largest)


def _misread(text: str, reason: str) -> UsageError:
    return UsageError(
        f"--pick {text!r}: {reason}",
        hint=f'such as "drop<=1, min size"; figures: {", ".join(_FIGURES)} (size in MB, latency in ms)',
    )


def sound_points(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    """Return the points whose file gives finite numbers for every image."""
    return tuple(point for point in points if not point.accuracy.broken)


def pareto_front(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    """Return the sound points that are Pareto-optimal in size and KL, smallest first."""
    front: list[SweepPoint] = []
    for point in sorted(sound_points(points), key=lambda p: (p.measured.quantized_bytes, p.accuracy.kl)):
        if not front or point.accuracy.kl < front[-1].accuracy.kl:
            front.append(point)
    return tuple(front)
