"""The numeric core, NumPy only: grids, ranges and rounding."""

from lampq_onnx.quantization.activations import MIN_MAX, ActivationQuantizer, Histogram, candidate_ranges
from lampq_onnx.quantization.weights import (
    INTEGER_GRIDS,
    Grid,
    QuantizedWeight,
    RowGroup,
    RowWidths,
    WeightGrid,
    fit_weight_grid,
)

__all__ = [
    "INTEGER_GRIDS",
    "MIN_MAX",
    "ActivationQuantizer",
    "Grid",
    "Histogram",
    "QuantizedWeight",
    "RowGroup",
    "RowWidths",
    "WeightGrid",
    "candidate_ranges",
    "fit_weight_grid",
]
