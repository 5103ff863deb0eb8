from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.allocation import Problem, capacity_of
from lampq_onnx.errors import LampqError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("budget", "total", "capacity"),
    [(4.0, 7, 28), (3.3, 10, 33), (0.1 + 0.2, 10, 3), (4.35, 100, 435), (2.999, 1000, 2999), (2.5, 3, 7)],
)
def test_capacity_is_that_of_the_printed_budget(budget, total, capacity):
    assert capacity_of(budget, total) == capacity


def test_capacity_is_exact_beyond_double_precision():
    assert capacity_of(4.0, 2**60 + 1) == 4 * (2**60 + 1)


def test_infeasible_budget_names_the_smallest_average(make_problem):
    with pytest.raises(LampqError, match=r"1\.9 average bits.*smallest feasible average is 2 "):
        make_problem([[1.0, 0.5]], [10], (2, 4), 1.9)
    assert make_problem([[1.0, 0.5]], [10], (2, 4), 2.0).capacity == 20


@pytest.mark.parametrize("candidates", [(), (4, 2), (2, 2), (0, 2), (2, 9), (2.5, 3)])
def test_bad_candidates_are_refused(make_problem, candidates):
    with pytest.raises(UsageError, match="candidate"):
        make_problem(np.ones((1, len(candidates))), [1], candidates, 4.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_cost_names_layer_and_width(make_problem, value):
    with pytest.raises(LampqError, match=r"layer1 has the cost .* at 4 bits"):
        make_problem([[1.0, 0.5], [1.0, value]], [1, 1], (2, 4), 4.0)


def test_bad_layers_are_refused(make_problem):
    with pytest.raises(LampqError, match="no layer"):
        make_problem(np.zeros((0, 1)), np.zeros(0, int), (2,), 4.0)
    with pytest.raises(LampqError, match="layer1 has 0 weights"):
        make_problem([[1.0], [1.0]], [1, 0], (2,), 4.0)
    with pytest.raises(LampqError, match="two layers are named a"):
        Problem(("a", "a"), np.array([1, 1]), (2,), np.ones((2, 1)), 4.0)
    with pytest.raises(LampqError, match="cost table"):
        make_problem([[1.0]], [1], (2, 3), 4.0)


def test_arrays_are_copied_and_frozen():
    sizes, costs = np.array([1, 2]), np.ones((2, 2))
    problem = Problem(("a", "b"), sizes, (2, 4), costs, 4.0)
    sizes[0], costs[0, 0] = 9, 9.0
    assert problem.sizes[0] == 1
    assert problem.costs[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        problem.costs[0, 0] = 2


def test_import_needs_no_framework():
    code = (
        "import sys, lampq_onnx.allocation\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'onnx_ir', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
