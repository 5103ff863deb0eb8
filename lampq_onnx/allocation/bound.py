"""Lagrangian bound and greedy solution of the multiple-choice knapsack.

The linear relaxation needs no solver (Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", Operations
Research 27, 1979): only the options on the lower convex hull of (bits, cost) of each unit matter, and taking
the hull's segments by falling slope solves it. The slope at which the budget runs out is the multiplier
lambda*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lampq_onnx.allocation.problem import FloatArray, IntArray, Problem


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What is known about a problem before any integer program runs.

    Costs are in units of ``scale`` and each unit's cheapest option costs 0, so that a cost that no width
    changes cannot drown the ones that matter. For every allocation that keeps the budget,

        cost = lower + sum_i reduced[i, B_i] + multiplier * (capacity - bits used)

    Attributes
    ----------
    scale : problem costs = ``floor`` + scale * costs here; 0 if no width changes any cost.
    floor : sum of the units' cheapest options, in the problem's unit.
    costs : (n, k) shifted and scaled costs, the largest is 1.
    multiplier : lambda*, cost per bit at which the budget runs out.
    lower : lower bound of the cost.
    reduced : (n, k) what an option costs more than the best one at the price lambda*, >= 0.
    choice : (n,) candidate indices of the greedy solution, which keeps the budget.
    upper : its cost.
    """

    scale: float
    floor: float
    costs: FloatArray
    multiplier: float
    lower: float
    reduced: FloatArray
    choice: IntArray
    upper: float

    @property
    def bound(self) -> float:
        """Lower bound in the problem's unit."""
        return self.floor + self.scale * self.lower

    @property
    def gap(self) -> float:
        """What any allocation can at most cost less than the greedy one, in units of ``scale``."""
        return max(0.0, self.upper - self.lower)

    def cost(self, choice: IntArray) -> float:
        """Cost of a choice in units of ``scale``."""
        return _cost(self.costs, choice)


@dataclass(frozen=True, eq=False)
class _Segments:
    """Hull segments by falling slope: moving ``unit`` from option ``start`` to ``end``."""

    unit: IntArray
    start: IntArray
    end: IntArray
    slope: FloatArray
    weight: IntArray


def relax(problem: Problem) -> Relaxation:
    """Bound a problem from below and solve it greedily."""
    cheapest = problem.costs.min(axis=1)
    excess = problem.costs - cheapest[:, None]
    scale = float(excess.max())
    costs = excess / scale if scale > 0 else excess
    weights = problem.weights
    free = problem.capacity - int(weights[:, 0].sum())
    segments = _segments(costs, problem.sizes, np.array(problem.candidates))
    filled = np.cumsum(segments.weight)
    first_beyond = int(np.searchsorted(filled, free, side="right"))
    multiplier = float(segments.slope[first_beyond]) if first_beyond < filled.size else 0.0
    # Bits above the smallest candidate, not all bits: smaller numbers cancel less.
    priced = costs + multiplier * (weights - weights[:, :1])
    best = priced.min(axis=1)
    choice = _greedy(costs, weights, segments, free)
    return Relaxation(
        scale=scale,
        floor=math.fsum(cheapest),
        costs=costs,
        multiplier=multiplier,
        lower=math.fsum([*best.tolist(), -multiplier * free]),
        reduced=priced - best[:, None],
        choice=choice,
        upper=_cost(costs, choice),
    )


def _cost(costs: FloatArray, choice: IntArray) -> float:
    return math.fsum(costs[np.arange(len(choice)), choice])


def _segments(costs: FloatArray, sizes: IntArray, candidates: IntArray) -> _Segments:
    """Lower convex hulls of all units at once: from each vertex the steepest chord leads to the next."""
    units = np.arange(costs.shape[0])
    at = np.zeros(len(units), dtype=np.int64)
    previous = np.full(len(units), np.inf)
    parts: list[tuple[IntArray, IntArray, IntArray, FloatArray, IntArray]] = []
    for _ in range(len(candidates) - 1):
        widths = candidates[None, :] - candidates[at][:, None]
        falls = costs[units, at][:, None] - costs
        slopes = np.where(widths > 0, falls / np.where(widths > 0, widths, 1), -np.inf)
        end = slopes.argmax(axis=1)
        steepest = slopes[units, end]
        live = np.flatnonzero(steepest > 0)
        # Rounding may make a later segment of a unit look steeper by one ulp; segments must stay in order.
        slope = np.minimum(steepest[live] / sizes[live], previous[live])
        weight = sizes[live] * widths[live, end[live]]
        parts.append((units[live], at[live], end[live], slope, weight))
        at[live] = end[live]
        previous[live] = slope
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return _Segments(none, none, none, np.zeros(0), none)
    unit, start, stop, slope, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((unit, start, -slope))
    return _Segments(unit[order], start[order], stop[order], slope[order], weight[order])


def _greedy(costs: FloatArray, weights: IntArray, segments: _Segments, free: int) -> IntArray:
    """Take segments by falling slope while they fit, then spend what is left on single changes."""
    choice = np.zeros(costs.shape[0], dtype=np.int64)
    rows = zip(
        segments.unit.tolist(),
        segments.start.tolist(),
        segments.end.tolist(),
        segments.weight.tolist(),
        strict=True,
    )
    for unit, start, end, weight in rows:
        # A unit whose last segment did not fit is not at the start of its next one.
        if choice[unit] == start and weight <= free:
            choice[unit] = end
            free -= weight
    units = np.arange(len(choice))
    while True:
        saved = costs[units, choice][:, None] - costs
        extra = weights - weights[units, choice][:, None]
        saved[extra > free] = 0.0
        unit, option = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[unit, option] <= 0:
            return choice
        free -= int(extra[unit, option])
        choice[unit] = option
