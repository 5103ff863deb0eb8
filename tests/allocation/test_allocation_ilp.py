from __future__ import annotations

import itertools
import math

import numpy as np
import pulp
import pytest

from lampq_onnx.allocation import Problem, core, solve
from lampq_onnx.allocation.bound import relax

VIT = (768 * 2304, 768 * 768, 768 * 3072, 768 * 3072)


def brute_force(problem: Problem) -> float:
    options = range(len(problem.candidates))
    choices = (np.array(c) for c in itertools.product(options, repeat=len(problem.names)))
    return min(problem.objective(c) for c in choices if problem.used(c) <= problem.capacity)


def dynamic_program(problem: Problem) -> float:
    """Exact optimum by the table of all capacities; sizes must be small."""
    best = np.zeros(problem.capacity + 1)
    for costs, weights in zip(problem.costs, problem.weights, strict=True):
        following = np.full_like(best, np.inf)
        for cost, weight in zip(costs, weights, strict=True):
            shifted = best[: best.size - weight] + cost
            following[weight:] = np.minimum(following[weight:], shifted)
        best = following
    return float(best[-1])


def used(problem: Problem, bits: dict[str, int]) -> int:
    return sum(int(c) * bits[name] for name, c in zip(problem.names, problem.sizes, strict=True))


def draw(rng: np.random.Generator, n: int, candidates: tuple[int, ...], law: str) -> np.ndarray:
    if law == "decaying":
        return 10.0 ** rng.uniform(-7, 3, n)[:, None] * 4.0 ** -np.array(candidates, dtype=float)
    return 10.0 ** rng.uniform(-14, 3, (n, len(candidates)))


@pytest.mark.parametrize("scale", [1.0, 1e-10])
@pytest.mark.parametrize("law", ["decaying", "arbitrary"])
@pytest.mark.parametrize("candidates", [(2, 4, 8), (2, 3, 4, 5), (1, 2, 8)])
def test_matches_brute_force(make_problem, candidates, law, scale):
    rng = np.random.default_rng(len(candidates))
    for trial in range(40):
        n = int(rng.integers(1, 6))
        sizes = rng.integers(1, (5, 64, 10**7)[trial % 3], n)
        budget = round(float(rng.uniform(candidates[0], 8)), 2)
        problem = make_problem(draw(rng, n, candidates, law) * scale, sizes, candidates, budget)
        solution = solve(problem)
        assert solution.objective == pytest.approx(brute_force(problem), rel=1e-12)
        assert solution.proven_optimal
        assert used(problem, solution.bits) <= problem.capacity
        assert solution.bound <= solution.objective
        assert solution.gap == (solution.objective - solution.bound) / solution.objective


@pytest.mark.parametrize("law", ["decaying", "arbitrary"])
def test_matches_dynamic_program_at_model_size(make_problem, law):
    rng = np.random.default_rng(5)
    for _ in range(15):
        candidates = (2, 3, 4, 5, 6, 7, 8)
        problem = make_problem(draw(rng, 48, candidates, law), rng.integers(1, 30, 48), candidates, 4.3)
        solution = solve(problem)
        assert solution.proven_optimal
        # The table sums in another order, so rounding of the largest cost bounds the agreement.
        assert solution.objective == pytest.approx(dynamic_program(problem), rel=1e-11)


def test_tiny_objectives_give_the_same_widths(make_problem):
    rng = np.random.default_rng(98)
    sizes = np.resize(VIT, 98)
    costs = draw(rng, 98, (2, 4, 8), "decaying")
    solutions = [solve(make_problem(costs * scale, sizes, (2, 4, 8), 4.5)) for scale in (1, 1e-6, 1e-8, 1e-10, 1e-200)]
    assert all(s.bits == solutions[0].bits and s.proven_optimal for s in solutions)
    assert solutions[3].objective == pytest.approx(solutions[0].objective * 1e-10, rel=1e-12)
    assert used(make_problem(costs, sizes, (2, 4, 8), 4.5), solutions[0].bits) <= 4.5 * sizes.sum()


def test_a_constant_cost_does_not_drown_the_rest(make_problem):
    rng = np.random.default_rng(3)
    costs = draw(rng, 6, (2, 4, 8), "decaying") * 1e-9
    sizes = rng.integers(1, 100, 6)
    alone = solve(make_problem(costs, sizes, (2, 4, 8), 4.0))
    beside = solve(make_problem([*costs, [1e6] * 3], [*sizes, 1], (2, 4, 8), 4.0))
    assert {k: v for k, v in beside.bits.items() if k != "layer6"}.keys() == alone.bits.keys()
    assert beside.bits["layer6"] == 2
    assert len(set(beside.bits.values())) > 1


@pytest.mark.parametrize("law", ["decaying", "arbitrary"])
@pytest.mark.parametrize("sizes", ["vit", "random"])
def test_a_thousand_layers(make_problem, law, sizes):
    rng = np.random.default_rng(1)
    counts = np.resize(VIT, 1000) if sizes == "vit" else rng.integers(10**5, 10**7, 1000)
    candidates = (2, 3, 4, 5, 6, 7, 8)
    problem = make_problem(draw(rng, 1000, candidates, law), counts, candidates, 4.5)
    solution = solve(problem)
    assert solution.seconds < 10
    assert solution.proven_optimal
    assert solution.gap < 1e-2
    assert used(problem, solution.bits) <= problem.capacity


def test_degenerate_problems(make_problem):
    zero = solve(make_problem(np.zeros((3, 2)), [1, 2, 3], (2, 4), 3.0))
    assert (zero.objective, zero.bound, zero.gap, zero.proven_optimal) == (0, 0, 0, True)
    one = solve(make_problem([[3.0, 2.0, 1.0]], [7], (2, 4, 8), 5.0))
    assert one.bits == {"layer0": 4}
    assert one.proven_optimal
    single = solve(make_problem([[3.0], [1.0]], [7, 8], (4,), 4.0))
    assert (single.bits, single.gap) == ({"layer0": 4, "layer1": 4}, 0)
    ample = solve(make_problem([[3.0, 1.0], [1.0, 0.5]], [7, 8], (2, 4), 8.0))
    assert set(ample.bits.values()) == {4}
    assert ample.proven_optimal


def test_more_bits_are_not_taken_where_they_cost_more(make_problem):
    solution = solve(make_problem([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]], [5, 5], (2, 4, 8), 8.0))
    assert solution.bits == {"layer0": 2, "layer1": 4}


def test_the_bound_holds_for_every_allocation(make_problem):
    rng = np.random.default_rng(11)
    problem = make_problem(draw(rng, 5, (2, 3, 4), "arbitrary"), rng.integers(1, 50, 5), (2, 3, 4), 3.1)
    relaxation = relax(problem.choices)
    assert (relaxation.reduced >= 0).all()
    for choice in map(np.array, itertools.product(range(3), repeat=5)):
        slack = problem.capacity - problem.used(choice)
        priced = relaxation.reduced[np.arange(5), choice].sum() + relaxation.multipliers[0] * slack
        assert relaxation.lower + priced == pytest.approx(relaxation.cost(choice), rel=1e-9, abs=1e-15)


def test_runs_repeat(make_problem):
    rng = np.random.default_rng(2)
    problem = make_problem(draw(rng, 60, (2, 3, 4), "arbitrary"), rng.integers(1, 999, 60), (2, 3, 4), 3.0)
    assert solve(problem).bits == solve(problem).bits


@pytest.fixture
def hard_problem(make_problem) -> Problem:
    """The integer program improves on its greedy allocation."""
    problem = make_problem([[10.0, 0.0], [8.0, 0.0], [8.0, 0.0]], [6, 5, 5], (2, 4), 2 + 2 * 10 / 16)
    assert list(relax(problem.choices).choice) == [1, 0, 0]
    return problem


def test_improves_on_the_greedy_allocation(hard_problem):
    assert solve(hard_problem).bits == {"layer0": 2, "layer1": 4, "layer2": 4}


def test_no_time_is_not_a_proof(hard_problem):
    solution = solve(hard_problem, time_limit=0.0)
    assert not solution.proven_optimal
    assert solution.objective == 16
    assert 0 < solution.gap < 1


def test_a_solution_at_the_time_limit_is_not_a_proof(hard_problem, monkeypatch):
    def stopped(model: pulp.LpProblem, solver: object) -> int:
        status = original(model, solver)
        model.sol_status = pulp.LpSolutionIntegerFeasible
        return status

    original = pulp.LpProblem.solve
    monkeypatch.setattr(pulp.LpProblem, "solve", stopped)
    solution = solve(hard_problem)
    assert solution.objective == 10
    assert not solution.proven_optimal


def test_answers_over_the_budget_are_cut_off(hard_problem, monkeypatch):
    answers = iter([core.CoreAnswer(np.array([1, 1, 1]), True), core.CoreAnswer(np.array([0, 1, 1]), True)])
    forbidden = []
    monkeypatch.setattr(core.CoreModel, "solve", lambda self, seconds: next(answers))
    monkeypatch.setattr(core.CoreModel, "forbid", lambda self, choice: forbidden.append(choice.tolist()))
    assert solve(hard_problem).objective == 10
    assert forbidden == [[1, 1, 1]]


def test_the_cut_removes_one_allocation(hard_problem):
    model = core.CoreModel(hard_problem.choices, relax(hard_problem.choices))
    first = model.solve(5)
    model.forbid(first.choice)
    second = model.solve(5)
    assert first.choice.tolist() == [0, 1, 1]
    assert second is None or second.choice.tolist() != [0, 1, 1]


def test_a_worse_answer_than_greedy_proves_nothing(hard_problem, monkeypatch):
    worse = core.CoreAnswer(np.array([0, 0, 1]), True)
    monkeypatch.setattr(core.CoreModel, "solve", lambda self, seconds: worse)
    solution = solve(hard_problem)
    assert solution.objective == 16
    assert not solution.proven_optimal


def test_no_solver_is_needed_when_the_bound_is_met(make_problem, monkeypatch):
    monkeypatch.setattr(core, "CoreModel", None)
    sizes = [10, 20, 30]
    costs = np.array(sizes)[:, None] * 4.0 ** -np.arange(2.0, 9.0)
    solution = solve(make_problem(costs, sizes, range(2, 9), 5.0))
    assert set(solution.bits.values()) == {5}
    assert solution.proven_optimal
    assert math.isclose(solution.gap, 0, abs_tol=1e-12)
