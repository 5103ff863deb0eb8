"""Compare the solvers of the integer program on the same allocations.

    python tools/bench/solvers.py                     # every solver that is installed
    python tools/bench/solvers.py --solvers HiGHS --sets thousand

For each set it prints the number of problems, of those proven optimal, of those whose objective is above the best that
any solver found, and the total CPU seconds. These include child processes (CBC is one). This needs numpy, PuLP,
pydantic and a solver.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import numpy as np
import pulp

from lampq_onnx.allocation import core
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, ChoiceSolution
from lampq_onnx.allocation.ilp import solve_choices
from lampq_onnx.allocation.solvers import SOLVERS, find_solver

VIT = (768 * 2304, 768 * 768, 768 * 3072, 768 * 3072)
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
SAME = 1e-12
"""Objectives that differ by less than this fraction are one."""


def costs(rng: np.random.Generator, layers: int, widths: tuple[int, ...], law: str) -> np.ndarray:
    """Draw costs (layers, widths): Fisher traces that fall by 4 per bit, or arbitrary numbers over 17 decades."""
    if law == "decaying":
        return 10.0 ** rng.uniform(-7, 3, layers)[:, None] * 4.0 ** -np.array(widths, dtype=float)
    return 10.0 ** rng.uniform(-14, 3, (layers, len(widths)))


def problem(table: np.ndarray, *budgets: Budget) -> ChoiceProblem:
    names = tuple(f"layer{number}" for number in range(len(table)))
    return ChoiceProblem(names, tuple(f"{bits} bits" for bits in WIDTHS), table, budgets)


def one_budget(law: str, layers: int, count: int, sizes: str = "random") -> Iterator[ChoiceProblem]:
    rng = np.random.default_rng(layers)
    for _ in range(count):
        weights = np.resize(VIT, layers) if sizes == "vit" else rng.integers(10**5, 10**7, layers)
        table = weights[:, None] * np.array(WIDTHS)
        yield problem(costs(rng, layers, WIDTHS, law), Budget("bits", table, int(4.5 * weights.sum())))


def several_budgets(layers: int, count: int, budgets: int = 3) -> Iterator[ChoiceProblem]:
    """Problems with budgets of bits, time and operations; none of them follows from another."""
    rng = np.random.default_rng(layers + budgets)
    for _ in range(count):
        sizes = rng.integers(10**5, 10**7, layers)
        tables = [sizes[:, None] * np.array(WIDTHS)]
        for _ in range(budgets - 1):
            speed = rng.uniform(0.5, 2.0, (layers, len(WIDTHS)))
            tables.append(np.rint(sizes[:, None] * np.array(WIDTHS) * speed).astype(np.int64))
        limits = [int(np.quantile(table, 0.45, axis=1).sum()) for table in tables]
        made = tuple(Budget(f"budget{j}", t, limit) for j, (t, limit) in enumerate(zip(tables, limits, strict=True)))
        yield problem(costs(rng, layers, WIDTHS, "decaying"), *made)


@dataclass(frozen=True)
class Set:
    name: str
    problems: Callable[[], Iterator[ChoiceProblem]]


SETS = (
    Set("48 decaying", partial(one_budget, "decaying", 48, 40)),
    Set("48 arbitrary", partial(one_budget, "arbitrary", 48, 40)),
    Set("98 vit", partial(one_budget, "decaying", 98, 20, "vit")),
    Set("thousand decaying", partial(one_budget, "decaying", 1000, 5)),
    Set("thousand arbitrary", partial(one_budget, "arbitrary", 1000, 5)),
    Set("thousand vit", partial(one_budget, "decaying", 1000, 5, "vit")),
    Set("48 two budgets", partial(several_budgets, 48, 10, 2)),
    Set("48 three budgets", partial(several_budgets, 48, 10)),
    Set("98 three budgets", partial(several_budgets, 98, 5)),
)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(chosen: Set, solver: str, limit: float) -> tuple[list[ChoiceSolution], float]:
    before = cpu_seconds()
    with patch.object(core, "find_solver", partial(find_solver, names=(solver,))):
        found = [solve_choices(problem, time_limit=limit) for problem in chosen.problems()]
    return found, cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="*", default=[name for name, make in SOLVERS.items() if make(1.0)])
    parser.add_argument("--sets", nargs="*", default=[""], help="run only sets whose names contain one of these words")
    parser.add_argument("--time-limit", type=float, default=10.0, help="limit for each problem, in seconds")
    options = parser.parse_args()
    print(f"PuLP {pulp.__version__}, {', '.join(options.solvers)}\n")
    print("| set | solver | problems | proven | above the best | largest gap | CPU, s |\n|---|---|---|---|---|---|---|")
    for chosen in SETS:
        if not any(part in chosen.name for part in options.sets):
            continue
        results = {solver: measure(chosen, solver, options.time_limit) for solver in options.solvers}
        best = [min(row) for row in zip(*([s.objective for s in found] for found, _ in results.values()), strict=True)]
        for solver, (found, seconds) in results.items():
            worse = sum(s.objective > low * (1 + SAME) for s, low in zip(found, best, strict=True))
            proven = sum(s.proven_optimal for s in found)
            gap = max((s.objective - s.bound) / s.objective for s in found)
            print(
                f"| {chosen.name} | {solver} | {len(found)} | {proven} | {worse} | {gap:.1e} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
