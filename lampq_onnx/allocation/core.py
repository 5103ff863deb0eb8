"""The part of a problem that the bound leaves open, as a PuLP model scaled for the solver's tolerances.

CBC compares with absolute tolerances (1e-7 for reduced costs, 1e-5 between two incumbents). An objective of Fisher
traces, around 1e-10 and spread over many decades, would end at a wrong allocation that is called optimal. Here the
objective is the distance from the lower bound in units of the remaining gap: every coefficient lies between 0 and
``SCALE``, whatever the traces are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pulp

from lampq_onnx.allocation.bound import Relaxation
from lampq_onnx.allocation.choices import BoolArray, ChoiceProblem, IntArray
from lampq_onnx.allocation.solvers import HINT, find_solver
from lampq_onnx.errors import LampqError

SCALE = 1e4
"""Objective of the greedy solution: CBC's increment of 1e-5 is then 1e-9 of the gap."""

_SLACKEN = 1 + 1e-6
"""Options exactly at the threshold are kept: rounding must not drop the optimum."""

_UNUSED_ROOM = 2.0
"""Bound of the unused bits, above what a better allocation can leave: CBC's preprocessing was seen to cut off
the optimum, and to call a worse one optimalwhen the optimum lay within 1e-9 of this bound."""


_WHOLE = 1e-4
"""Tolerance for the options of a layer, which sum to one in a solution."""


@dataclass(frozen=True)
class CoreAnswer:
    """The widths that a solver chose, and what it proved about them.

    Attributes:
        choice: (n,) option indices.
        complete: the solver ended the search, so no choice in the model costs less.
    """

    choice: IntArray
    complete: bool


@dataclass(frozen=True)
class _Row:
    """A budget as an equation: used plus unused makes ``free``; ``cost`` is the term of the unused rest."""

    used: pulp.LpAffineExpression
    free: int
    cost: tuple[pulp.LpVariable, float]


class CoreModel:
    """Integer program over the options that can be part of a choice within some distance of the lower bound.

    An option whose reduced cost exceeds the distance puts every choice that contains it further away (see
    ``Relaxation``), so it is left out. So is an option that another option of the layer beats in every respect. A
    layer with a single option left is settled.
    """

    def __init__(self, problem: ChoiceProblem, relaxation: Relaxation, within: float | None = None) -> None:
        """Build the integer program of a problem.

        Args:
            problem: the problem to solve.
            relaxation: its bound; ``relaxation.gap`` must be positive.
            within: keep options of choices that cost at most this much more than the lower bound; default: the gap, so
                that the greedy choice, or one that beats it, is in the model.
        """
        self._within = relaxation.gap if within is None else within
        keep = (relaxation.reduced <= self._within * _SLACKEN) & ~_dominated(problem, relaxation)
        self._settled = keep.argmax(axis=1)
        self._options = {i: np.flatnonzero(keep[i]).tolist() for i in np.flatnonzero(keep.sum(axis=1) > 1).tolist()}
        self._model = pulp.LpProblem("allocation", pulp.LpMinimize)
        self._variables = {
            (i, k): _variable(self._model, f"x_{i}_{k}", cat=pulp.LpBinary)
            for i, options in self._options.items()
            for k in options
        }
        scale = SCALE / self._within
        costs = [(x, float(relaxation.reduced[key]) * scale) for key, x in self._variables.items()]
        rows = [
            self._budget(problem, j, float(multiplier) * scale)
            for j, multiplier in enumerate(relaxation.multipliers.tolist())
        ]
        self._model += _expression([*costs, *(row.cost for row in rows)])
        for row in rows:
            self._model += row.used == row.free
        for i, options in self._options.items():
            self._model += pulp.lpSum(self._variables[i, k] for k in options) == 1

    def _budget(self, problem: ChoiceProblem, index: int, price: float) -> _Row:
        """Write one budget as an equation with its unused rest.

        Unused bits cost lambda* each, so a better choice leaves at most gap / lambda* of them. A separate variable for
        them keeps coefficients of the size of lambda* times a layer out of the objective.
        """
        budget = problem.budgets[index]
        weights = budget.weights
        extra = {(i, k): int(weights[i, k] - weights[i, self._settled[i]]) for i, k in self._variables}
        free = budget.capacity - int(problem.used(self._settled)[index])
        divisor = math.gcd(*extra.values()) or 1
        lowest = sum(min(extra[i, k] for k in options) for i, options in self._options.items())
        price *= divisor
        # Nothing is left if even the least is too much; the equation then has no solution, as it should.
        most = min(max(0, free - lowest) / divisor, SCALE * _UNUSED_ROOM / price if price > 0 else math.inf)
        grain = max(1.0, most)
        unused = _variable(self._model, f"unused_{index}", upBound=most / grain)
        taken = [(x, extra[key] // divisor) for key, x in self._variables.items() if extra[key]]
        return _Row(_expression([*taken, (unused, grain)]), free // divisor, (unused, price * grain))

    @property
    def settled(self) -> bool:
        """Whether no layer is open."""
        return not self._options

    def forbid(self, choice: IntArray) -> None:
        """Exclude one choice from the model."""
        chosen = [self._variables[i, int(choice[i])] for i in self._options]
        self._model += pulp.lpSum(chosen) <= len(chosen) - 1

    def solve(self, seconds: float) -> CoreAnswer | None:
        """Run the solver for at most about ``seconds``; return None if it found no solution, also if none exists.

        Raises:
            LampqError: no solver is installed, or it failed.
        """
        if self.settled:
            return CoreAnswer(self._settled.copy(), complete=True)
        name, solver = find_solver(seconds)
        try:
            self._model.solve(solver)
        except pulp.PulpSolverError as error:
            raise LampqError(f"the integer program solver {name} failed: {error}", hint=HINT) from error
        # `status` says optimal for any solution found before the time limit; `sol_status` tells them apart.
        found = self._model.sol_status
        if found not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            return None
        choice = self._settled.copy()
        for i, options in self._options.items():
            values = {k: float(self._variables[i, k].value() or 0.0) for k in options}
            if abs(sum(values.values()) - 1) > _WHOLE:
                return None  # HiGHS reports feasible at its time limit even without a solution
            choice[i] = max(values, key=values.__getitem__)
        return CoreAnswer(choice, complete=found == pulp.LpSolutionOptimal)


def _dominated(problem: ChoiceProblem, relaxation: Relaxation) -> BoolArray:
    """Find options that another option of the layer dominates, shape (n, k).

    The other one takes no more of any budget, costs no more and comes first.
    """
    costs, weights = relaxation.costs, problem.weights
    dominated = np.zeros(costs.shape, dtype=bool)
    for k in range(costs.shape[1]):
        no_worse = (costs <= costs[:, [k]]) & (weights <= weights[:, :, [k]]).all(axis=0)
        same = (costs == costs[:, [k]]) & (weights == weights[:, :, [k]]).all(axis=0)
        same[:, :k] = False
        dominated[:, k] = (no_worse & ~same).any(axis=1)
    return dominated


def _expression(terms: Sequence[tuple[pulp.LpVariable, float]]) -> pulp.LpAffineExpression:
    """Return the sum of variables times numbers."""
    return pulp.lpSum(number * variable for variable, number in terms)


def _variable(
    model: pulp.LpProblem, name: str, lowBound: float = 0, upBound: float = 1, cat: str = pulp.LpContinuous
) -> pulp.LpVariable:
    """Add a variable to the model, by the interface of PuLP 4 if it exists: the older one is deprecated there."""
    if hasattr(model, "add_variable"):
        return model.add_variable(name, lowBound, upBound, cat=cat)
    return pulp.LpVariable(name, lowBound, upBound, cat=cat)
