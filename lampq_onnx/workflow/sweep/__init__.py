"""Try many budgets on one analysis, and choose among them."""

from lampq_onnx.workflow.sweep.choice import Pick, pareto_front, parse_pick
from lampq_onnx.workflow.sweep.grid import DEFAULT_METRICS, parse_bits
from lampq_onnx.workflow.sweep.points import PointFolder, write_points_csv

__all__ = [
    "DEFAULT_METRICS",
    "Pick",
    "PointFolder",
    "pareto_front",
    "parse_bits",
    "parse_pick",
    "write_points_csv",
]
