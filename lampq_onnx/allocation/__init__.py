"""Bit allocation: from sensitivities to widths. Needs neither torch nor onnx nor onnxruntime."""

from lampq_onnx.allocation.activations import (
    DEFAULT_ACTIVATION_CANDIDATES,
    WIDE_PRICE,
    ActivationChoice,
    wide_units,
)
from lampq_onnx.allocation.allocate import allocate
from lampq_onnx.allocation.budgets import allocate_within
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, ChoiceSolution
from lampq_onnx.allocation.ilp import solve, solve_choices
from lampq_onnx.allocation.limits import Limits, parse_bops, parse_latency, parse_size
from lampq_onnx.allocation.metrics import METRICS, Metric, budgeted_units
from lampq_onnx.allocation.problem import Problem, Solution, capacity_of
from lampq_onnx.allocation.ratios import RATIO, degradation, gain
from lampq_onnx.allocation.request import (
    DEFAULT_ACTIVATION_BUDGET,
    DEFAULT_CANDIDATES,
    check_request,
    parse_activation_candidates,
    parse_candidates,
    width_pairs,
)
from lampq_onnx.allocation.update import BudgetRule, Evaluator, SwapRecord, UpdateResult, iterative_update
from lampq_onnx.allocation.within import FormSolution

__all__ = [
    "DEFAULT_ACTIVATION_BUDGET",
    "DEFAULT_ACTIVATION_CANDIDATES",
    "DEFAULT_CANDIDATES",
    "METRICS",
    "RATIO",
    "WIDE_PRICE",
    "ActivationChoice",
    "Budget",
    "BudgetRule",
    "ChoiceProblem",
    "ChoiceSolution",
    "Evaluator",
    "FormSolution",
    "Limits",
    "Metric",
    "Problem",
    "Solution",
    "SwapRecord",
    "UpdateResult",
    "allocate",
    "allocate_within",
    "budgeted_units",
    "capacity_of",
    "check_request",
    "degradation",
    "gain",
    "iterative_update",
    "parse_activation_candidates",
    "parse_bops",
    "parse_candidates",
    "parse_latency",
    "parse_size",
    "solve",
    "solve_choices",
    "wide_units",
    "width_pairs",
]
