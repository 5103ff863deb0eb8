"""Numeric core, numpy only: grids, ranges and rounding."""

from lampq_onnx.quantization.activations import ActivationQuantizer, Histogram, candidate_ranges
from lampq_onnx.quantization.weights import Grid, QuantizedWeight, WeightGrid, fit_weight_grid

__all__ = [
    "ActivationQuantizer",
    "Grid",
    "Histogram",
    "QuantizedWeight",
    "WeightGrid",
    "candidate_ranges",
    "fit_weight_grid",
]
