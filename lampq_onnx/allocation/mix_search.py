"""Choose one width or a mix of widths for every layer under all budgets, with a verified distance from the optimum.

The mixes of a layer are too many to list. So the search works on a list that grows (column generation; Gilmore and
Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", Operations Research 9, 1961): solve the problem
with the mixes known so far, find for its prices the best mix of every layer, add it, and repeat. The same prices bound
from below what any mix at all could reach, so the gap that is reported holds for all mixes and not only for the list.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lampq_onnx.allocation.bound import relax
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, ChoiceSolution, FloatArray, IntArray
from lampq_onnx.allocation.groups import RowCounts
from lampq_onnx.allocation.ilp import solve_choices
from lampq_onnx.allocation.mixes import MixKind

GAP = 1e-3
"""Gap that is accepted without an integer program."""

_CLOSE = 2e-4
"""Gap at which no more mixes are looked for."""

_ROUNDS = 12
_LADDER = tuple(2.0**step for step in np.linspace(-3, 3, 17))
"""Multiples of the first prices whose mixes the list starts with."""

_NEAR = (0.97, 0.99, 0.997, 1.0, 1.003, 1.01, 1.03)
"""Multiples of later prices: neighbouring mixes, with which the budget can be used up."""


@dataclass(frozen=True)
class Mix:
    """A mix of widths: the kind that it belongs to, and channels of each width."""

    kind: int
    counts: RowCounts


@dataclass(frozen=True, eq=False)
class MixSolution:
    """What each layer gets, and the quality of the solution.

    Attributes:
        taken: for each layer, the index of a plain option or a mix.
        problem: the problem with all mixes that were looked at, for what the choice takes of each budget.
        found: the solution of that problem; its bound holds for all mixes.
    """

    taken: tuple[int | Mix, ...]
    problem: ChoiceProblem
    found: ChoiceSolution


class _Columns:
    """Options of each layer: the plain ones, then the mixes found so far."""

    def __init__(self, plain: ChoiceProblem, kinds: Sequence[MixKind]) -> None:
        self._plain, self._kinds = plain, kinds
        self._mixes: list[dict[Mix, tuple[float, list[int]]]] = [{} for _ in plain.names]

    def add(self, layer: int, mix: Mix) -> bool:
        """Add a mix; return whether it is new."""
        if mix in self._mixes[layer]:
            return False
        self._mixes[layer][mix] = self._kinds[mix.kind].exact(layer, mix.counts)
        return True

    def problem(self) -> ChoiceProblem:
        """Return the problem with all options so far; layers with fewer options have infinite costs in the rest."""
        plain, most = self._plain, max(map(len, self._mixes))
        shape = (len(plain.names), len(plain.options) + most)
        costs = np.full(shape, np.inf)
        weights = np.zeros((len(plain.budgets), *shape), dtype=np.int64)
        costs[:, : len(plain.options)] = plain.costs
        weights[:, :, : len(plain.options)] = plain.weights
        for layer, mixes in enumerate(self._mixes):
            for place, (cost, amounts) in enumerate(mixes.values(), start=len(plain.options)):
                costs[layer, place] = cost
                weights[:, layer, place] = amounts
        return ChoiceProblem(
            names=plain.names,
            options=(*plain.options, *(f"mix {k}" for k in range(most))),
            costs=costs,
            budgets=tuple(
                Budget(budget.name, own, budget.capacity, budget.total, budget.offset)
                for budget, own in zip(plain.budgets, weights, strict=True)
            ),
        )

    def option(self, layer: int, place: int) -> int | Mix:
        """Return what the option of a layer stands for."""
        plain = len(self._plain.options)
        return place if place < plain else list(self._mixes[layer])[place - plain]


def solve_mixes(plain: ChoiceProblem, kinds: Sequence[MixKind], *, time_limit: float) -> MixSolution:
    """Choose a plain option or a mix for every layer at the least cost within all budgets.

    Args:
        plain: the problem with one width for each layer.
        kinds: mixes that layers can take instead.
        time_limit: seconds for an integer program, which runs only if the gap is above `GAP` without it.

    Raises:
        LampqError: the budgets cannot be met together, or the solver is missing or failed.
    """
    started = time.perf_counter()
    columns = _Columns(plain, kinds)

    @cache
    def any_choice() -> IntArray:
        return solve_choices(plain, time_limit=time_limit).choice

    relaxation = relax(plain, any_choice)
    multipliers = relaxation.multipliers * relaxation.scale
    bound = -math.inf
    ladder = _LADDER
    for _ in range(_ROUNDS):
        new = 0
        for factor in ladder:
            new += _price(plain, kinds, multipliers * factor, columns)[1]
        problem = columns.problem()
        relaxation = relax(problem, any_choice)
        multipliers = relaxation.multipliers * relaxation.scale
        lower, found = _price(plain, kinds, multipliers, columns)
        bound = max(bound, lower)
        upper = problem.objective(relaxation.choice)
        if upper - bound <= _CLOSE * upper or not new + found:
            break
        ladder = _NEAR
    choice, proven = relaxation.choice, False
    if problem.objective(choice) - bound > GAP * problem.objective(choice):
        better = solve_choices(problem, time_limit=time_limit)
        if better.objective < problem.objective(choice):
            choice = better.choice
    objective = problem.objective(choice)
    solution = ChoiceSolution(choice, objective, min(bound, objective), proven, time.perf_counter() - started)
    taken = tuple(columns.option(layer, place) for layer, place in enumerate(choice.tolist()))
    return MixSolution(taken, problem, solution)


def _price(
    plain: ChoiceProblem, kinds: Sequence[MixKind], multipliers: FloatArray, columns: _Columns
) -> tuple[float, int]:
    """Add the best mix of every layer at these prices.

    Returns:
        The lower bound that the prices give, and the number of new mixes.
    """
    priced = plain.costs + np.tensordot(multipliers, plain.weights.astype(np.float64), axes=1)
    least, new = priced.min(axis=1), 0
    for number, kind in enumerate(kinds):
        own, mixes = kind.price(np.concatenate([[1.0], multipliers]))
        least = np.minimum(least, own)
        new += sum(columns.add(layer, Mix(number, counts)) for layer, counts in mixes.items())
    return math.fsum([*least.tolist(), *(-multipliers * plain.capacities).tolist()]), new
