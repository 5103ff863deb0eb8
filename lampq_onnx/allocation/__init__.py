"""Bit allocation: from sensitivities to widths. Needs neither torch nor onnx nor onnxruntime."""

from lampq_onnx.allocation.activations import wide_layers
from lampq_onnx.allocation.against_uniform import costs_against_uniform
from lampq_onnx.allocation.allocate import allocate
from lampq_onnx.allocation.budgets import allocate_within
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, ChoiceSolution
from lampq_onnx.allocation.ilp import solve, solve_choices
from lampq_onnx.allocation.limits import Limits, parse_bops, parse_latency, parse_size
from lampq_onnx.allocation.metrics import METRICS, Metric, budgeted_layers
from lampq_onnx.allocation.options import DEFAULTS, ActivationWidth, AllocationOptions
from lampq_onnx.allocation.problem import Problem, Solution, capacity_of
from lampq_onnx.allocation.ratios import RATIO, degradation, gain
from lampq_onnx.allocation.update import BudgetRule, Evaluator, SwapRecord, UpdateResult, iterative_update, update_mixes
from lampq_onnx.allocation.widths import parse_activation_candidates, parse_candidates
from lampq_onnx.allocation.within import FormSolution

__all__ = [
    "DEFAULTS",
    "METRICS",
    "RATIO",
    "ActivationWidth",
    "AllocationOptions",
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
    "budgeted_layers",
    "capacity_of",
    "costs_against_uniform",
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
    "update_mixes",
    "wide_layers",
]
