"""The general problem: one option per layer under several budgets (a multiple-choice knapsack)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lampq_onnx.errors import LampqError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Budget:
    """A linear budget: sum_i weights[i, k_i] <= capacity, in integers.

    Attributes:
        name: what is spent, for messages, e.g. "average weight bits".
        weights: (n, k) what layer i takes with option k, integers >= 0.
        capacity: what all layers together may take.
        total: messages divide by it, e.g. by the number of all weights to show average bits.
        offset: messages add it first: the part that no choice changes, not counted in ``capacity``.
    """

    name: str
    weights: IntArray
    capacity: int
    total: int = 1
    offset: int = 0

    def __post_init__(self) -> None:
        """Copy the weights and reject invalid values."""
        weights = np.array(self.weights)
        if weights.ndim != 2 or not np.issubdtype(weights.dtype, np.integer) or (weights < 0).any():
            raise LampqError(f"the weights of the budget of {self.name} must be a table of integers from 0 up")
        if self.total < 1:
            raise LampqError(f"the total of the budget of {self.name} must be positive, not {self.total}")
        weights = weights.astype(np.int64)
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)

    def say(self, amount: float) -> str:
        """Format an amount for a message."""
        return f"{(amount + self.offset) / self.total:.6g}"


@dataclass(frozen=True, eq=False)
class ChoiceProblem:
    """Choose one option per layer: min sum_i costs[i, k_i] within every budget.

    Attributes:
        names: layer names, unique.
        options: (k,) name of each option in messages, e.g. "4 bits".
        costs: (n, k) costs >= 0, all in the same unit; +inf if a layer does not have the option.
        budgets: at least one.
    """

    names: tuple[str, ...]
    options: tuple[str, ...]
    costs: FloatArray
    budgets: tuple[Budget, ...]

    def __post_init__(self) -> None:
        """Copy the costs and reject invalid values, and budgets that cannot be met even alone."""
        check_names(self.names)
        shape = (len(self.names), len(self.options))
        costs = np.array(self.costs, dtype=np.float64)
        if costs.shape != shape:
            raise LampqError(f"the cost table is {costs.shape}, not {shape[0]} layers x {shape[1]} options")
        if (wrong := np.argwhere(~(costs >= 0))).size:
            layer, option = wrong[0]
            raise LampqError(
                f"layer {self.names[layer]} has the cost {costs[layer, option]} at {self.options[option]}; "
                "a cost is not negative, and infinite where the option does not exist"
            )
        if (none := np.flatnonzero(~np.isfinite(costs).any(axis=1))).size:
            raise LampqError(f"layer {self.names[none[0]]} has no option of finite cost")
        costs.setflags(write=False)
        object.__setattr__(self, "costs", costs)
        if not self.budgets:
            raise LampqError("there is no budget")
        for budget in self.budgets:
            if budget.weights.shape != shape:
                raise LampqError(
                    f"the weights of the budget of {budget.name} are {budget.weights.shape}, "
                    f"not {shape[0]} layers x {shape[1]} options"
                )
        for budget, least in zip(self.budgets, self.least.sum(axis=1).tolist(), strict=True):
            if least > budget.capacity:
                raise LampqError(
                    f"a budget of {budget.say(budget.capacity)} {budget.name} cannot be met: "
                    f"the smallest feasible value is {budget.say(least)}",
                    hint="Raise this budget or add smaller candidates.",
                )

    @cached_property
    def available(self) -> BoolArray:
        """Whether a layer has an option, shape (n, k)."""
        return np.isfinite(self.costs)

    @cached_property
    def weights(self) -> IntArray:
        """The weights of all budgets, shape (m, n, k)."""
        return np.stack([budget.weights for budget in self.budgets])

    @cached_property
    def capacities(self) -> IntArray:
        """The capacities of all budgets, shape (m,)."""
        return np.array([budget.capacity for budget in self.budgets], dtype=np.int64)

    @cached_property
    def least(self) -> IntArray:
        """The least that a layer takes of each budget, shape (m, n)."""
        least: IntArray = np.where(self.available, self.weights, np.iinfo(np.int64).max).min(axis=2)
        return least

    def used(self, choice: IntArray) -> IntArray:
        """Return what a choice (one option index per layer) takes of each budget, shape (m,)."""
        return taken(self.weights, choice)

    def fits(self, choice: IntArray) -> bool:
        """Whether a choice keeps every budget and every layer has its option."""
        has = self.available[np.arange(len(self.names)), choice].all()
        return bool(has and (self.used(choice) <= self.capacities).all())

    def objective(self, choice: IntArray) -> float:
        """Return the cost of a choice, correctly rounded, in the unit of ``costs``."""
        return math.fsum(self.costs[np.arange(len(self.names)), choice])


@dataclass(frozen=True, eq=False)
class ChoiceSolution:
    """Options that keep all budgets, and how close to optimal they are known to be.

    Attributes:
        choice: (n,) option indices.
        objective: their cost, in the unit of the problem's costs.
        bound: nothing that keeps the budgets costs less (Lagrangian bound); same unit.
        proven_optimal: the search ended by itself, or the gap is zero up to rounding.
        seconds: wall time of the search.
    """

    choice: IntArray
    objective: float
    bound: float
    proven_optimal: bool
    seconds: float

    @property
    def gap(self) -> float:
        """(objective - bound) / objective, 0 when the objective is 0."""
        return (self.objective - self.bound) / self.objective if self.objective > 0 else 0.0


def taken(weights: IntArray, choice: IntArray) -> IntArray:
    """Return what a choice takes of budgets with weights of shape (m, n, k), shape (m,)."""
    total: IntArray = weights[:, np.arange(len(choice)), choice].sum(axis=1)
    return total


def check_names(names: tuple[str, ...]) -> None:
    """Require at least one layer, and unique names.

    Raises:
        LampqError: names the layer.
    """
    if not names:
        raise LampqError("there is no layer to allocate bits to")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise LampqError(f"two layers are named {name}; layer names must be unique")
        seen.add(name)
