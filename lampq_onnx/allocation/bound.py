"""Lagrangian bound and greedy solution of the multiple-choice knapsack.

With one budget the linear relaxation needs no solver (Sinha and Zoltners, "The Multiple-Choice Knapsack
Problem", Operations Research 27, 1979): only the options on the lower convex hull of (weight, cost) of each layer
matter, and taking the hull's segments by falling slope solves it. The slope at which the budget runs out is the
multiplier lambda*. With several budgets the multipliers are searched for (``multipliers``); whatever is found there,
the bound computed here holds for any multipliers that are not negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lampq_onnx.allocation.choices import ChoiceProblem, FloatArray, IntArray
from lampq_onnx.allocation.multipliers import find_multipliers
from lampq_onnx.allocation.repair import exchange, improve, repair


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What is known about a problem before any integer program runs.

    Costs are in units of ``scale`` and each layer's cheapest option costs 0, so that a cost that no option
    changes cannot drown the ones that matter. For every choice k,

        cost = lower + sum_i reduced[i, k_i] + sum_j multipliers[j] * (capacity_j - used_j)

    Attributes:
        scale: problem costs = ``floor`` + scale * costs here; 0 if no option changes any cost.
        floor: sum of the layers' cheapest options, in the problem's unit.
        costs: (n, k) shifted and scaled costs; the largest finite one is 1.
        multipliers: (m,) price of one unit of each budget.
        lower: lower bound of the cost.
        reduced: (n, k) extra cost of an option over the best one at these prices, >= 0.
        choice: (n,) option indices of the greedy solution, which keeps all budgets.
        upper: its cost.
    """

    scale: float
    floor: float
    costs: FloatArray
    multipliers: FloatArray
    lower: float
    reduced: FloatArray
    choice: IntArray
    upper: float

    @property
    def bound(self) -> float:
        """Lower bound of the cost, in the problem's unit."""
        return self.floor + self.scale * self.lower

    @property
    def gap(self) -> float:
        """How much less than the greedy choice any choice can cost, in units of ``scale``."""
        return max(0.0, self.upper - self.lower)

    def cost(self, choice: IntArray) -> float:
        """Return the cost of a choice in units of ``scale``."""
        return _cost(self.costs, choice)


@dataclass(frozen=True, eq=False)
class _Segments:
    """Hull segments by falling slope: moving ``layer`` from option ``start`` to ``end``."""

    layer: IntArray
    start: IntArray
    end: IntArray
    slope: FloatArray
    weight: IntArray


def relax(problem: ChoiceProblem, find_any: Callable[[], IntArray] | None = None) -> Relaxation:
    """Bound a problem from below and solve it greedily.

    Args:
        problem: layers, costs and budgets.
        find_any: returns a choice that keeps all budgets, or raises. It is called if prices and repair do not lead to
            one, which cannot happen with one budget.
    """
    cheapest = problem.costs.min(axis=1)
    excess = problem.costs - cheapest[:, None]
    scale = float(excess[problem.available].max())
    costs = excess / scale if scale > 0 else excess
    # Weights above each layer's least instead of whole weights: smaller numbers lose less by cancellation.
    weights = np.where(problem.available, problem.weights - problem.least[:, :, None], 0)
    free = problem.capacities - problem.least.sum(axis=1)
    if len(problem.budgets) == 1:
        multiplier, choice = _single(costs, weights[0], int(free[0]))
        multipliers = np.array([multiplier])
    else:
        multipliers = find_multipliers(costs, weights, free)
        priced = _priced(costs, weights, multipliers)
        reduced = priced - priced.min(axis=1)[:, None]
        found = repair(reduced, weights, free)
        if found is None and find_any is not None:
            found = find_any()
        if found is None:
            raise ValueError("no choice that keeps all budgets was found")
        choice = exchange(costs, reduced, weights, free, improve(costs, weights, free, found))
    priced = _priced(costs, weights, multipliers)
    best = priced.min(axis=1)
    return Relaxation(
        scale=scale,
        floor=math.fsum(cheapest),
        costs=costs,
        multipliers=multipliers,
        lower=math.fsum([*best.tolist(), *(-multipliers * free).tolist()]),
        reduced=priced - best[:, None],
        choice=choice,
        upper=_cost(costs, choice),
    )


def _cost(costs: FloatArray, choice: IntArray) -> float:
    return math.fsum(costs[np.arange(len(choice)), choice])


def _priced(costs: FloatArray, weights: IntArray, multipliers: FloatArray) -> FloatArray:
    priced: FloatArray = costs + np.tensordot(multipliers, weights.astype(np.float64), axes=1)
    return priced


def _single(costs: FloatArray, weights: IntArray, free: int) -> tuple[float, IntArray]:
    """Return the multiplier and the greedy solution under one budget; a layer's least weight is 0."""
    start = np.where(weights == 0, costs, np.inf).argmin(axis=1)
    segments = _segments(costs, weights, start)
    filled = np.cumsum(segments.weight)
    first_beyond = int(np.searchsorted(filled, free, side="right"))
    multiplier = float(segments.slope[first_beyond]) if first_beyond < filled.size else 0.0
    choice = start.copy()
    rows = zip(
        segments.layer.tolist(),
        segments.start.tolist(),
        segments.end.tolist(),
        segments.weight.tolist(),
        strict=True,
    )
    left = free
    for layer, begin, end, weight in rows:
        # A layer whose last segment did not fit is not at the start of its next one.
        if choice[layer] == begin and weight <= left:
            choice[layer] = end
            left -= weight
    return multiplier, improve(costs, weights[None], np.array([free]), choice)


def _segments(costs: FloatArray, weights: IntArray, start: IntArray) -> _Segments:
    """Compute the lower convex hulls of all layers at once: from each vertex, the steepest chord leads to the next."""
    layers = np.arange(costs.shape[0])
    at = start.copy()
    previous = np.full(len(layers), np.inf)
    parts: list[tuple[IntArray, IntArray, IntArray, FloatArray, IntArray]] = []
    while True:
        steps = weights - weights[layers, at][:, None]
        falls = costs[layers, at][:, None] - costs
        slopes = np.where(steps > 0, falls / np.where(steps > 0, steps, 1), -np.inf)
        end = slopes.argmax(axis=1)
        live = np.flatnonzero(slopes[layers, end] > 0)
        if not live.size:
            break
        # Rounding may make a later segment of a layer look steeper by one ulp; segments must stay in order.
        slope = np.minimum(slopes[live, end[live]], previous[live])
        parts.append((layers[live], at[live], end[live], slope, steps[live, end[live]]))
        at[live] = end[live]
        previous[live] = slope
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return _Segments(none, none, none, np.zeros(0), none)
    layer, begin, stop, slope, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Segments of one layer and slope were found in the order of the hull; a stable sort keeps that order.
    order = np.lexsort((layer, -slope))
    return _Segments(layer[order], begin[order], stop[order], slope[order], weight[order])
