"""Exact allocation: bound, integer program over what the bound leaves open, verification."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lampq_onnx.allocation.bound import Relaxation, relax
from lampq_onnx.allocation.choices import ChoiceProblem, ChoiceSolution, IntArray
from lampq_onnx.allocation.problem import Problem, Solution
from lampq_onnx.errors import LampqError

if TYPE_CHECKING:
    from lampq_onnx.allocation.core import CoreAnswer, CoreModel

_ROUNDING = 1e-13
"""A gap below this fraction of the upper bound is double-precision rounding: nothing is left to search."""

_SOLVER_TOLERANCE = 1e-8
"""Differences below this fraction of the gap are beyond the solver (see ``core.SCALE``)."""

_ATTEMPTS = 5
"""How many solver answers that break the budget are excluded before the search ends."""

_FIRST = 1 / 8
"""Share of the gap that the first model under several budgets reaches; measured: optima lie at 0.05 to 0.6 of it."""

_GROWTH = 2.5
"""Factor by which each further model reaches further."""

_EARLY = 0.3
"""Share of the remaining time that a model other than the last one may take."""


def solve(problem: Problem, *, time_limit: float = 10.0) -> Solution:
    """Allocate widths at the least cost within the budget.

    Args:
        problem: layers, costs and budget.
        time_limit: seconds for the integer program; afterwards the best allocation found is returned, unproven.

    Returns:
        Solution: widths that keep the budget in integer arithmetic, never worse than the greedy allocation.

    Raises:
        LampqError: the solver is missing or failed.
    """
    found = solve_choices(problem.choices, time_limit=time_limit)
    return Solution(
        bits=problem.bits(found.choice),
        objective=found.objective,
        bound=found.bound,
        gap=found.gap,
        proven_optimal=found.proven_optimal,
        seconds=found.seconds,
    )


def solve_choices(problem: ChoiceProblem, *, time_limit: float = 10.0) -> ChoiceSolution:
    """Choose one option per layer at the least cost within all budgets.

    Args:
        problem: layers, costs and budgets.
        time_limit: seconds for the integer program; afterwards the best choice found is returned, unproven.

    Returns:
        ChoiceSolution: options that keep every budget in integer arithmetic, never worse than the greedy choice.

    Raises:
        LampqError: the budgets cannot be met together, or the solver is missing or failed.
    """
    started = time.perf_counter()
    deadline = started + time_limit
    relaxation = relax(problem, lambda: _any_choice(problem, deadline))
    choice, proven = relaxation.choice, True
    if relaxation.gap > _ROUNDING * relaxation.upper:
        choice, proven = _search(problem, relaxation, deadline)
    if not problem.fits(choice):
        raise LampqError("the solver's allocation breaks a budget, so it was rejected")
    objective = problem.objective(choice)
    return ChoiceSolution(
        choice=choice,
        objective=objective,
        bound=min(relaxation.bound, objective),
        proven_optimal=proven,
        seconds=time.perf_counter() - started,
    )


def _search(problem: ChoiceProblem, relaxation: Relaxation, deadline: float) -> tuple[IntArray, bool]:
    """Return the better of the greedy and the solver's solution, and whether it is proven optimal.

    With one budget the greedy solution is close to optimal, and the model that contains it is small. With several
    budgets the search starts nearer to the bound: a model of everything within a distance of the bound proves its
    optimum if that lies within the distance. Otherwise it gives a better solution, with which more options can be left
    out.
    """
    from lampq_onnx.allocation.core import CoreModel  # noqa: PLC0415  loads the solver, which --help does not need

    best, gap = relaxation.choice, relaxation.gap
    within = gap if len(problem.budgets) == 1 else gap * _FIRST
    while True:
        last = within >= gap
        model = CoreModel(problem, relaxation, within)
        if last and model.settled:
            return best, True
        answer = _ask(problem, model, deadline, 1.0 if last else _EARLY)
        if answer is not None:
            distance = relaxation.cost(answer.choice) - relaxation.lower
            # A finished search that ends above a choice it contains was not exact, so it proves nothing.
            proven = answer.complete and distance - within <= _SOLVER_TOLERANCE * within
            if distance < gap:
                best, gap = answer.choice, max(0.0, distance)
            if proven:
                return best, True
        if last or time.perf_counter() >= deadline:
            return best, False
        within = min(gap, within * _GROWTH)


def _ask(problem: ChoiceProblem, model: CoreModel, deadline: float, share: float) -> CoreAnswer | None:
    """Return the solver's answer if it keeps all budgets, using a share of the remaining time."""
    for _ in range(_ATTEMPTS):
        left = deadline - time.perf_counter()
        if left <= 0:
            return None
        answer = model.solve(left * share)
        if answer is None or problem.fits(answer.choice):
            return answer
        # Within the solver's tolerance and yet over a budget. Excluding it keeps a later proof valid.
        model.forbid(answer.choice)
    return None


def _any_choice(problem: ChoiceProblem, deadline: float) -> IntArray:
    """Find a choice within all budgets: one that takes the least of the last budget within the others.

    This solves the same problem with one budget less, so the recursion ends: every problem meets one budget alone.
    """
    *others, last = problem.budgets
    costs = np.where(problem.available, last.weights.astype(np.float64), np.inf)
    fewer = replace(problem, costs=costs, budgets=tuple(others))
    found = solve_choices(fewer, time_limit=max(0.0, deadline - time.perf_counter()))
    if problem.fits(found.choice):
        return found.choice
    least = math.ceil(found.bound)
    names = " and ".join(budget.say(budget.capacity) + " " + budget.name for budget in problem.budgets)
    kept = " and ".join(budget.name for budget in others)
    known = "smallest feasible value" if found.proven_optimal else "smallest value found"
    if not found.proven_optimal and least <= last.capacity:
        raise LampqError(
            f"no allocation that keeps {names} together was found within the time limit: within the budget of {kept} "
            f"the {known} of {last.name} is {last.say(found.objective)}",
            hint="Raise a budget or the time limit.",
        )
    raise LampqError(
        f"the budgets of {names} cannot be met together: within the budget of {kept} the {known} of {last.name} "
        f"is {last.say(found.objective)}",
        hint="Raise a budget or add smaller candidates.",
    )
