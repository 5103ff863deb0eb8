"""The bit allocation problem with one budget, and the solution of any allocation problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from lampq_onnx.allocation.choices import Budget, ChoiceProblem, FloatArray, IntArray, check_names
from lampq_onnx.errors import LampqError, UsageError

WEIGHT_BUDGET = "average weight bits"
"""Name of the budget over sum_i c_i B_i."""

MIN_BITS = 1
MAX_BITS = 8


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose one width per layer: min sum_i costs[i, B_i] subject to sum_i sizes[i] B_i <= capacity.

    This is the integer program of LampQ (AAAI 2026, arXiv 2511.10004) with any table of costs instead of
    Omega_i gamma^-B. The arrays are copied and made read-only.

    Attributes:
        names: layer names, unique.
        sizes: (n,) number of weights c_i of each layer.
        candidates: (k,) widths in bits, ascending.
        costs: (n, k) cost of layer i at candidate k, finite and >= 0, all in the same unit.
        budget: average bits per weight that must not be exceeded.
    """

    names: tuple[str, ...]
    sizes: IntArray
    candidates: tuple[int, ...]
    costs: FloatArray
    budget: float

    def __post_init__(self) -> None:
        """Copy the arrays and reject invalid values and problems without a solution."""
        check_candidates(self.candidates)
        check_names(self.names)
        sizes = np.asarray(self.sizes)
        if sizes.shape != (len(self.names),) or not np.issubdtype(sizes.dtype, np.integer):
            raise LampqError(f"sizes must be {len(self.names)} integers, one per layer")
        if (bad := np.flatnonzero(sizes <= 0)).size:
            raise LampqError(f"layer {self.names[bad[0]]} has {sizes[bad[0]]} weights; a layer has at least one")
        costs = np.array(self.costs, dtype=np.float64)
        if costs.shape != (len(self.names), len(self.candidates)):
            raise LampqError(
                f"the cost table is {costs.shape}, not {len(self.names)} layers x {len(self.candidates)} candidates"
            )
        if (wrong := np.argwhere(~(np.isfinite(costs) & (costs >= 0)))).size:
            layer, option = wrong[0]
            raise LampqError(
                f"layer {self.names[layer]} has the cost {costs[layer, option]} at "
                f"{self.candidates[option]} bits; a cost is finite and not negative"
            )
        if not math.isfinite(self.budget):
            raise UsageError(f"the budget must be a finite number of bits, not {self.budget}")
        sizes = sizes.astype(np.int64)
        sizes.setflags(write=False)
        costs.setflags(write=False)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "costs", costs)
        if self.capacity < self.candidates[0] * self.total_size:
            raise LampqError(
                f"a budget of {self.budget:g} average bits cannot be met: the smallest feasible average is "
                f"{self.candidates[0]} (every layer at the smallest candidate)",
                hint="Raise the budget or add smaller candidates.",
            )

    @property
    def total_size(self) -> int:
        """Number of weights of all layers together."""
        return int(self.sizes.sum())

    @property
    def capacity(self) -> int:
        """Bits that all weights together may take, floor(budget * total size)."""
        return capacity_of(self.budget, self.total_size)

    @property
    def weights(self) -> IntArray:
        """Bits that layer i takes at candidate k, shape (n, k)."""
        return self.sizes[:, None] * np.array(self.candidates, dtype=np.int64)

    @cached_property
    def choices(self) -> ChoiceProblem:
        """This problem as a choice among options."""
        return ChoiceProblem(
            names=self.names,
            options=tuple(f"{bits} bits" for bits in self.candidates),
            costs=self.costs,
            budgets=(Budget(WEIGHT_BUDGET, self.weights, self.capacity, self.total_size),),
        )

    def used(self, choice: IntArray) -> int:
        """Return the bits taken by a choice of one candidate index per layer."""
        return int(self.weights[np.arange(len(self.names)), choice].sum())

    def objective(self, choice: IntArray) -> float:
        """Return the cost of a choice, correctly rounded, in the unit of ``costs``."""
        return math.fsum(self.costs[np.arange(len(self.names)), choice])

    def bits(self, choice: IntArray) -> dict[str, int]:
        """Return a choice as a map from layer name to width."""
        return {name: self.candidates[k] for name, k in zip(self.names, choice.tolist(), strict=True)}


@dataclass(frozen=True)
class Solution:
    """Widths that keep the budget, and how close to optimal they are known to be.

    Attributes:
        bits: layer name -> width of the weights.
        objective: their cost, in the unit of the problem's costs.
        bound: no allocation costs less (Lagrangian bound); same unit.
        gap: (objective - bound) / objective, 0 when the objective is 0. Widths are integers, so a proven optimum
            usually leaves a gap.
        proven_optimal: the search ended by itself, or the gap is zero up to rounding.
        seconds: wall time of the search.
        activation_bits: layer name -> width of the input, if the program chose it too; else empty.
        only: no other widths keep the budget, or none are cheaper whatever is measured, so that no cost was computed.
    """

    bits: dict[str, int]
    objective: float
    bound: float
    gap: float
    proven_optimal: bool
    seconds: float
    activation_bits: dict[str, int] = field(default_factory=dict)
    only: bool = False


def capacity_of(budget: float, total: int) -> int:
    """Return floor(budget * total) of the decimal number that the budget prints as.

    3.3 means thirty-three tenths: the binary float just below it would cost one bit of the capacity.
    """
    return math.floor(Fraction(repr(float(budget))) * total)


def check_candidates(candidates: tuple[int, ...]) -> None:
    """Require widths that are ascending, unique and in 1..8.

    Raises:
        UsageError: the widths are not; the message lists them.
    """
    whole = all(isinstance(b, int) and MIN_BITS <= b <= MAX_BITS for b in candidates)
    if not candidates or not whole or list(candidates) != sorted(set(candidates)):
        raise UsageError(
            f"candidate widths must be ascending, unique integers in {MIN_BITS}..{MAX_BITS}, not {candidates}"
        )
