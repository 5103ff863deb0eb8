"""Mixed-precision quantization of Vision Transformers: ONNX in, standard ONNX out.

The functions below import what they need when they are called, so that ``import lampq_onnx`` loads neither torch nor
onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lampq_onnx.api import allocate, analyze, convert, inspect, quantize, validate
    from lampq_onnx.artifacts import BitPlan, LatencyTable, LayerPlan, Report, Sensitivities
    from lampq_onnx.config.recipe import Recipe
    from lampq_onnx.data import Preprocessing
    from lampq_onnx.errors import GateError, LampqError, UsageError
    from lampq_onnx.evaluation.gates import gates_of, require_gates

_HOMES = {
    **dict.fromkeys(("allocate", "analyze", "convert", "inspect", "probe", "quantize", "validate"), "lampq_onnx.api"),
    **dict.fromkeys(("BitPlan", "LatencyTable", "LayerPlan", "Report", "Sensitivities"), "lampq_onnx.artifacts"),
    "Preprocessing": "lampq_onnx.data",
    "Recipe": "lampq_onnx.config.recipe",
    **dict.fromkeys(("gates_of", "require_gates"), "lampq_onnx.evaluation.gates"),
    **dict.fromkeys(("GateError", "LampqError", "UsageError"), "lampq_onnx.errors"),
}

__all__ = [
    "BitPlan",
    "GateError",
    "LampqError",
    "LatencyTable",
    "LayerPlan",
    "Preprocessing",
    "Recipe",
    "Report",
    "Sensitivities",
    "UsageError",
    "allocate",
    "analyze",
    "convert",
    "gates_of",
    "inspect",
    "probe",
    "quantize",
    "require_gates",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
