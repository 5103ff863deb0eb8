"""Several budgets at once: against brute force, against separate problems, and what cannot be met."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lampq_onnx.allocation import Budget, ChoiceProblem, solve_choices
from lampq_onnx.allocation.bound import relax
from lampq_onnx.errors import LampqError

WEIGHT_BITS = np.arange(2, 9)
INPUT_BITS = np.array([4, 6, 8, 16])


def problem_of(costs, weights, capacities) -> ChoiceProblem:
    costs = np.asarray(costs, dtype=float)
    return ChoiceProblem(
        names=tuple(f"layer{i}" for i in range(len(costs))),
        options=tuple(f"option {k}" for k in range(costs.shape[1])),
        costs=costs,
        budgets=tuple(
            Budget(name, np.asarray(w), int(c))
            for name, w, c in zip(("bits", "time", "heat"), weights, capacities, strict=False)
        ),
    )


def pairs(n: int, seed: int, scale: float = 1.0, average=(4.5, 7.3)) -> tuple[ChoiceProblem, list[ChoiceProblem]]:
    """Widths of weights and inputs in one problem, and in one problem each: the costs add up, so they agree."""
    rng = np.random.default_rng(seed)
    sizes = np.resize((768 * 2304, 768 * 768, 768 * 3072, 768 * 3072), n)
    elements = np.resize((197 * 768, 197 * 768, 197 * 768, 197 * 3072), n)
    alone, budgets = [], []
    for bits, counts, mean in ((WEIGHT_BITS, sizes, average[0]), (INPUT_BITS, elements, average[1])):
        costs = scale * 10.0 ** rng.uniform(-3, 1, n)[:, None] * 4.0**-bits * np.exp(rng.normal(0, 0.3, (n, len(bits))))
        budgets.append((costs, counts[:, None] * bits, int(counts.sum() * mean)))
        alone.append(problem_of(costs, [budgets[-1][1]], [budgets[-1][2]]))
    (weight_costs, used, room), (input_costs, input_used, input_room) = budgets
    joint = problem_of(
        (weight_costs[:, :, None] + input_costs[:, None, :]).reshape(n, -1),
        [np.repeat(used, len(INPUT_BITS), axis=1), np.tile(input_used, len(WEIGHT_BITS))],
        [room, input_room],
    )
    return joint, alone


def brute_force(problem: ChoiceProblem) -> float:
    options = [np.flatnonzero(row) for row in problem.available]
    choices = (np.array(c) for c in itertools.product(*options))
    return min((problem.objective(c) for c in choices if problem.fits(c)), default=math.inf)


@pytest.mark.parametrize("scale", [1.0, 1e-10])
@pytest.mark.parametrize("law", ["falling", "arbitrary", "coarse"])
@pytest.mark.parametrize("budgets", [1, 2, 3])
def test_matches_brute_force(budgets, law, scale):
    rng = np.random.default_rng(budgets)
    met = 0
    for trial in range(25):
        n, k = int(rng.integers(1, 6)), int(rng.integers(2, 5))
        weights = rng.integers(0, (5, 64, 10**7)[trial % 3], (budgets, n, k))
        costs = scale * 10.0 ** rng.uniform(-7, 3, (n, k))
        if law == "falling":
            weights.sort(axis=2)
            costs = -np.sort(-costs, axis=1)
        elif law == "coarse":
            costs = scale * rng.integers(0, 3, (n, k))
        costs[rng.random((n, k)) < 0.15] = np.inf
        costs[np.isinf(costs).all(axis=1), 0] = scale
        least = np.where(np.isfinite(costs), weights, 10**9).min(axis=2).sum(axis=1)
        most = np.where(np.isfinite(costs), weights, 0).max(axis=2).sum(axis=1)
        capacities = least + ((most - least) * rng.uniform(0.1, 0.9, budgets)).astype(int)
        problem = problem_of(costs, weights, capacities)
        best = brute_force(problem)
        if math.isinf(best):
            with pytest.raises(LampqError, match="cannot be met together"):
                solve_choices(problem)
            continue
        met += 1
        solution = solve_choices(problem)
        assert problem.fits(solution.choice)
        assert solution.objective == pytest.approx(best, rel=1e-12)
        assert solution.proven_optimal
        assert solution.bound <= solution.objective
    assert met >= 5


@pytest.mark.parametrize("average", [(4.5, 7.3), (2.0, 4.0), (2.1, 16.0), (8.0, 8.0)])
@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-200])
def test_agrees_with_separate_problems(scale, average):
    joint, alone = pairs(48, seed=1, scale=scale, average=average)
    solution = solve_choices(joint)
    expected = [solve_choices(problem) for problem in alone]
    assert solution.proven_optimal
    assert solution.seconds < 3
    assert solution.objective == pytest.approx(sum(s.objective for s in expected), rel=1e-12)
    assert solution.bound == pytest.approx(sum(s.bound for s in expected), rel=1e-9)


def test_a_thousand_layers():
    joint, alone = pairs(1000, seed=1)
    solution = solve_choices(joint, time_limit=8.0)
    assert solution.seconds < 12
    assert joint.fits(solution.choice)
    best = sum(solve_choices(problem).objective for problem in alone)
    assert best * (1 - 1e-12) <= solution.objective <= best * (1 + 1e-4)
    assert solution.bound <= best
    assert solution.gap < 1e-3


def test_the_bound_holds_for_every_choice():
    rng = np.random.default_rng(3)
    problem = problem_of(rng.uniform(0, 1, (4, 3)), rng.integers(0, 50, (2, 4, 3)), [100, 110])
    relaxation = relax(problem)
    assert (relaxation.multipliers >= 0).all()
    assert (relaxation.reduced >= 0).all()
    for choice in map(np.array, itertools.product(range(3), repeat=4)):
        slack = problem.capacities - problem.used(choice)
        priced = relaxation.reduced[np.arange(4), choice].sum() + relaxation.multipliers @ slack
        assert relaxation.lower + priced == pytest.approx(relaxation.cost(choice), rel=1e-9, abs=1e-12)


def test_a_budget_that_does_not_bind_has_no_price():
    problem = problem_of([[3.0, 1.0, 0.0]] * 4, [[[0, 1, 2]] * 4, [[0, 1, 2]] * 4], [4, 100])
    relaxation = relax(problem)
    assert relaxation.multipliers.tolist()[1] == 0
    assert relaxation.multipliers[0] > 0
    assert solve_choices(problem).objective == 4


def test_no_time_is_not_a_proof():
    joint, _ = pairs(48, seed=2)
    solution = solve_choices(joint, time_limit=0.0)
    assert joint.fits(solution.choice)
    assert not solution.proven_optimal
    assert 0 < solution.gap < 0.1


def test_runs_repeat():
    joint, _ = pairs(48, seed=4)
    assert solve_choices(joint).choice.tolist() == solve_choices(joint).choice.tolist()


def test_options_that_a_layer_does_not_have():
    problem = problem_of([[math.inf, 1.0], [2.0, 0.0]], [[[0, 5], [1, 5]], [[0, 1], [0, 1]]], [9, 9])
    assert solve_choices(problem).choice.tolist() == [1, 0]
    with pytest.raises(LampqError, match="layer1 has no option of finite cost"):
        problem_of([[1.0, 1.0], [math.inf, math.inf]], [[[0, 1]] * 2], [9])


def test_a_budget_that_binds_alone_is_named():
    with pytest.raises(LampqError, match=r"a budget of 9 time cannot be met: the smallest feasible value is 10"):
        problem_of([[1.0, 0.0]] * 2, [[[1, 2]] * 2, [[6, 5]] * 2], [9, 9])


def test_budgets_that_exclude_each_other_are_named():
    either = problem_of([[1.0, 0.0]] * 3, [[[0, 10]] * 3, [[10, 0]] * 3], [10, 10])
    with pytest.raises(LampqError, match=r"10 bits and 10 time cannot be met together.*value of time is 20"):
        solve_choices(either)
    enough = problem_of([[1.0, 0.0]] * 3, [[[0, 10]] * 3, [[10, 0]] * 3], [10, 20])
    assert solve_choices(enough).objective == 2


def test_amounts_are_said_as_averages():
    with pytest.raises(LampqError, match=r"a budget of 2\.5 average bits cannot be met: .* is 4\n"):
        ChoiceProblem(("a",), ("x",), np.ones((1, 1)), (Budget("average bits", np.array([[400]]), 250, 100),))


@pytest.mark.parametrize(
    ("costs", "message"),
    [([[1.0, -1.0]], "layer0 has the cost -1.0 at option 1"), ([[math.nan, 1.0]], "cost nan at option 0")],
)
def test_bad_costs_are_named(costs, message):
    with pytest.raises(LampqError, match=message):
        problem_of(costs, [[[0, 1]]], [9])


def test_bad_budgets_are_refused():
    with pytest.raises(LampqError, match="budget of bits must be a table of integers"):
        Budget("bits", np.array([[0.5]]), 1)
    with pytest.raises(LampqError, match="budget of bits must be a table of integers"):
        Budget("bits", np.array([[-1]]), 1)
    with pytest.raises(LampqError, match="weights of the budget of bits are"):
        problem_of([[1.0, 0.0]], [[[1]]], [9])
    with pytest.raises(LampqError, match="no budget"):
        problem_of([[1.0]], [], [])
