"""Exact allocation: bound, integer program over what the bound leaves open, verification."""

from __future__ import annotations

import time

from lampq_onnx.allocation.bound import Relaxation, relax
from lampq_onnx.allocation.core import CoreModel
from lampq_onnx.allocation.problem import IntArray, Problem, Solution

_ROUNDING = 1e-13
"""A gap below this fraction of the upper bound is rounding of double precision: nothing to search."""

_SOLVER_TOLERANCE = 1e-8
"""Differences below this fraction of the gap are beyond the solver (see ``core.SCALE``)."""

_ATTEMPTS = 5
"""Solver answers that break the budget are cut off at most this often."""


def solve(problem: Problem, *, time_limit: float = 10.0) -> Solution:
    """Allocate widths at the least cost within the budget.

    Parameters
    ----------
    problem : units, costs and budget.
    time_limit : seconds for the integer program; afterwards the best allocation found is returned, unproven.

    Returns
    -------
    Solution
        keeps the budget in integer arithmetic and is never worse than the greedy allocation.

    Raises
    ------
    LampqError: the solver is missing or failed.
    """
    started = time.perf_counter()
    relaxation = relax(problem)
    choice, proven = relaxation.choice, True
    if relaxation.gap > _ROUNDING * relaxation.upper:
        choice, proven = _search(problem, relaxation, started + time_limit)
    objective = problem.objective(choice)
    bound = min(relaxation.bound, objective)
    return Solution(
        bits=problem.bits(choice),
        objective=objective,
        bound=bound,
        gap=(objective - bound) / objective if objective > 0 else 0.0,
        proven_optimal=proven,
        seconds=time.perf_counter() - started,
    )


def _search(problem: Problem, relaxation: Relaxation, deadline: float) -> tuple[IntArray, bool]:
    """The better of the greedy solution and the solver's, and whether it is proven optimal."""
    model = CoreModel(problem, relaxation)
    if model.settled:
        return relaxation.choice, True
    for _ in range(_ATTEMPTS):
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        answer = model.solve(left)
        if answer is None:
            break
        if problem.used(answer.choice) > problem.capacity:
            # Within the solver's tolerance and yet over the budget. Cutting it off keeps a later proof valid.
            model.forbid(answer.choice)
            continue
        excess = relaxation.cost(answer.choice) - relaxation.upper
        # A finished search that ends above an allocation it contains was not exact, so it proves nothing.
        proven = answer.complete and excess <= _SOLVER_TOLERANCE * relaxation.gap
        return (answer.choice if excess < 0 else relaxation.choice), proven
    return relaxation.choice, False
