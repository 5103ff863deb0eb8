"""CBC and HiGHS behind the same model: the same optima, and one message where neither is there."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import partial

import numpy as np
import pulp
import pytest

from lampq_onnx.allocation import core, solve, solvers
from lampq_onnx.allocation.bound import relax
from lampq_onnx.allocation.choices import Budget, ChoiceProblem
from lampq_onnx.allocation.ilp import solve_choices
from lampq_onnx.allocation.solvers import SOLVERS, find_solver
from lampq_onnx.errors import LampqError

CANDIDATES = (2, 4, 8)


@pytest.fixture(params=list(SOLVERS))
def solver(request, monkeypatch) -> str:
    """Each solver that is installed, as the only one."""
    name = request.param
    if SOLVERS[name](1.0) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(core, "find_solver", partial(find_solver, names=(name,)))
    return name


def decaying(rng: np.random.Generator, n: int) -> np.ndarray:
    return 10.0 ** rng.uniform(-7, 3, n)[:, None] * 4.0 ** -np.array(CANDIDATES, dtype=float)


@pytest.mark.parametrize("scale", [1.0, 1e-10])
def test_each_solver_finds_what_trying_everything_finds(make_problem, solver, scale):
    rng = np.random.default_rng(7)
    for trial in range(30):
        n = int(rng.integers(2, 7))
        sizes = rng.integers(1, (5, 64, 10**7)[trial % 3], n)
        problem = make_problem(decaying(rng, n) * scale, sizes, CANDIDATES, round(float(rng.uniform(2, 8)), 2))
        choices = map(np.array, itertools.product(range(len(CANDIDATES)), repeat=n))
        best = min(problem.objective(c) for c in choices if problem.used(c) <= problem.capacity)
        solution = solve(problem)
        assert solution.objective == pytest.approx(best, rel=1e-12)
        assert solution.proven_optimal
        assert (
            sum(int(c) * solution.bits[k] for k, c in zip(problem.names, problem.sizes, strict=True))
            <= problem.capacity
        )


def test_several_budgets(solver):
    rng = np.random.default_rng(3)
    for _ in range(15):
        n = 5
        tables = [rng.integers(1, 10**6, (n, 3)).cumsum(axis=1) for _ in range(3)]
        costs = np.sort(10.0 ** rng.uniform(-6, 2, (n, 3)), axis=1)[:, ::-1]
        budgets = tuple(Budget(f"b{j}", t, int(np.quantile(t, 0.6, axis=1).sum())) for j, t in enumerate(tables))
        problem = ChoiceProblem(tuple("abcde"), ("2", "4", "8"), costs, budgets)
        fitting = [c for c in map(np.array, itertools.product(range(3), repeat=n)) if problem.fits(c)]
        found = solve_choices(problem)
        assert found.objective == pytest.approx(min(problem.objective(c) for c in fitting), rel=1e-12)
        assert found.proven_optimal
        assert problem.fits(found.choice)


def test_the_cut_and_the_proof(make_problem, solver):
    """The second answer of a model is another one, and in the end there is none."""
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)
    model = core.CoreModel(problem.choices, relax(problem.choices))
    seen = []
    while (answer := model.solve(5)) is not None:
        assert answer.complete
        seen.append(tuple(answer.choice.tolist()))
        model.forbid(answer.choice)
    assert seen[0] == (0, 1, 1)
    assert len(set(seen)) == len(seen)


def test_runs_repeat(make_problem, solver):
    rng = np.random.default_rng(2)
    problem = make_problem(10.0 ** rng.uniform(-14, 3, (60, 3)), rng.integers(1, 999, 60), (2, 3, 4), 3.0)
    assert solve(problem).bits == solve(problem).bits


def test_values_that_choose_nothing_are_no_answer(make_problem, monkeypatch):
    """As a solver leaves them that ran out of time before its first solution and says feasible all the same."""
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)

    def nothing(model: pulp.LpProblem, solver: object) -> int:
        model.sol_status = pulp.LpSolutionIntegerFeasible
        return pulp.LpStatusOptimal

    monkeypatch.setattr(pulp.LpProblem, "solve", nothing)
    assert core.CoreModel(problem.choices, relax(problem.choices)).solve(5) is None
    solution = solve(problem)
    assert (solution.objective, solution.proven_optimal) == (16, False)


def test_highs_takes_over_where_cbc_is_missing(make_problem, monkeypatch):
    if SOLVERS["HiGHS"](1.0) is None:
        pytest.skip("HiGHS is not installed")
    for name in ("PULP_CBC_CMD", "COIN_CMD"):
        if hasattr(pulp, name):
            monkeypatch.setattr(getattr(pulp, name), "available", lambda self: False)
    assert find_solver(1.0)[0] == "HiGHS"
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)
    assert solve(problem).objective == 10


def test_no_solver_is_one_message(make_problem, monkeypatch):
    monkeypatch.setattr(solvers, "SOLVERS", dict.fromkeys(SOLVERS, lambda seconds: None))
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)
    with pytest.raises(LampqError, match=r"no solver for integer programs is installed \(CBC or HiGHS\)") as raised:
        solve(problem)
    assert raised.value.hint == "install one: pip install highspy"


def test_a_failing_solver_is_named(make_problem, solver, monkeypatch):
    def fail(model: pulp.LpProblem, solver: object) -> int:
        raise pulp.PulpSolverError("crashed")

    monkeypatch.setattr(pulp.LpProblem, "solve", fail)
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)
    with pytest.raises(LampqError, match=f"{solver} failed: crashed"):
        solve(problem)


def test_solvers_print_nothing_on_standard_output(solver):
    code = f"""
import numpy as np
from functools import partial
from lampq_onnx.allocation import core
from lampq_onnx.allocation.choices import Budget, ChoiceProblem
from lampq_onnx.allocation.ilp import solve_choices
core.find_solver = partial(core.find_solver, names=({solver!r},))
sizes = np.array([6, 5, 5])[:, None] * np.array([2, 4])
costs = np.array([[10.0, 0], [8, 0], [8, 0]])
problem = ChoiceProblem(("a", "b", "c"), ("2", "4"), costs, (Budget("bits", sizes, 52),))
print("before")
print(solve_choices(problem).objective)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\n10.0\n"
