"""The numeric core, NumPy only: grids, ranges and rounding."""

from lampq_onnx.quantization.activations import MIN_MAX, ActivationQuantizer, Histogram, candidate_ranges
from lampq_onnx.quantization.fitting import fit_weight_grid
from lampq_onnx.quantization.grids import INTEGER_GRIDS, Grid
from lampq_onnx.quantization.weights import QuantizedWeight, RowGroup, RowWidths, WeightGrid

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
