"""The Pareto front and the choice of a point, against all pairs and all points."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lampq_onnx.artifacts.report import Baseline
from lampq_onnx.artifacts.sweep import SweepPoint
from lampq_onnx.errors import LampqError
from lampq_onnx.workflow.sweep import pareto_front, parse_bits, parse_pick
from tests.html.reports import accuracy, latency

FIGURES: dict[str, Callable[[SweepPoint], float]] = {
    "drop": lambda p: p.measured.accuracy.drop_points,
    "kl": lambda p: p.measured.accuracy.kl,
    "size": lambda p: p.measured.quantized_bytes / 1e6,
    "bits": lambda p: p.bits,
    "top1": lambda p: p.measured.accuracy.quantized.top1 * 100,
    "latency": lambda p: p.measured.latency.quantized_ms if p.measured.latency else math.nan,
}
"""The figures, read from the record without the code under test."""


@st.composite
def points(draw: st.DrawFn) -> list[SweepPoint]:
    """Points on a coarse grid of sizes and errors, so that many are equal in one or both."""
    found = []
    for i in range(draw(st.integers(1, 9))):
        drop = draw(st.integers(-2, 6)) / 2
        right = accuracy(0.8 - drop / 100, drop, kl=draw(st.integers(1, 6)) / 8)
        measured = Baseline(
            weight_average=2.0,
            accuracy=right.model_copy(update={"broken": draw(st.sampled_from([0, 0, 0, 3]))}),
            quantized_bytes=draw(st.integers(1, 5)) * 10**6,
            latency=latency(draw(st.sampled_from([0.5, 1.0, 2.0]))) if draw(st.booleans()) else None,
        )
        found.append(SweepPoint(metric="m", bits=1 + i / 2, updated=False, measured=measured, rounding={}))
    return found


def position(point: SweepPoint) -> tuple[float, float]:
    return point.measured.quantized_bytes, point.measured.accuracy.kl


@given(points())
def test_the_front_is_what_no_sound_point_dominates(found: list[SweepPoint]) -> None:
    sound = [point for point in found if point.measured.accuracy.broken == 0]

    def dominated(one: SweepPoint) -> bool:
        return any(
            all(a <= b for a, b in zip(position(other), position(one), strict=True))
            and position(other) != position(one)
            for other in sound
        )

    front = pareto_front(found)
    best = {position(point) for point in sound if not dominated(point)}
    assert [position(point) for point in front] == sorted(best)
    assert all(point in sound for point in front)


@given(
    points(),
    st.lists(
        st.tuples(st.sampled_from(sorted(FIGURES)), st.sampled_from(["<=", ">="]), st.integers(-2, 12)), max_size=2
    ),
    st.sampled_from(sorted(FIGURES)),
    st.sampled_from(["min", "max"]),
)
def test_a_pick_is_the_best_of_the_points_within_its_bounds(
    found: list[SweepPoint], bounds: list[tuple[str, str, int]], figure: str, goal: str
) -> None:
    pick = parse_pick(",".join([*(f"{name} {sign} {value / 2}" for name, sign, value in bounds), f"{goal} {figure}"]))

    def inside(point: SweepPoint) -> bool:
        values = [(FIGURES[name](point), sign, value / 2) for name, sign, value in bounds]
        return all(a <= b if sign == "<=" else a >= b for a, sign, b in values)  # nan is neither

    sound = [point for point in found if point.measured.accuracy.broken == 0]
    needed = [figure, *(name for name, _, _ in bounds)]
    known = [point for point in sound if not any(math.isnan(FIGURES[name](point)) for name in needed)]
    allowed = [point for point in known if inside(point)]
    if not allowed:
        words = "no point meets" if known else "it was not measured" if sound else "every file answers with NaN"
        with pytest.raises(LampqError, match=words):
            pick.choose(found)
        return
    chosen = pick.choose(found)
    assert chosen in allowed
    values = np.array([FIGURES[figure](point) for point in allowed])
    own = FIGURES[figure](chosen)
    best = values.min() if goal == "min" else values.max()
    assert own == best
    ties = [point for point, value in zip(allowed, values, strict=True) if value == best]
    assert chosen.measured.accuracy.kl == min(point.measured.accuracy.kl for point in ties)


@pytest.mark.parametrize("figure", ["latency", "speedup"])
def test_times_that_were_not_taken_pick_nothing(figure: str) -> None:
    measured = Baseline(weight_average=2.0, accuracy=accuracy(0.8, 0.0), quantized_bytes=10**6, latency=None)
    point = SweepPoint(metric="m", bits=2, updated=False, measured=measured, rounding={})
    for text in (f"min {figure}", f"{figure} <= 1, min size"):
        with pytest.raises(LampqError, match=rf"by {figure}: it was not measured"):
            parse_pick(text).choose([point])


@given(st.integers(4, 32), st.integers(0, 20), st.sampled_from([0.25, 0.5, 1.0, 0.125]))
def test_ranges_of_budgets_are_those_of_numpy(quarters: int, steps: int, width: float) -> None:
    first = quarters / 4
    last = min(8.0, first + steps * width)
    wanted = np.arange(first, last + width / 1000, width)
    np.testing.assert_allclose(parse_bits(f"{first}..{last}:{width}"), wanted)
