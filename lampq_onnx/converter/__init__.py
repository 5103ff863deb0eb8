"""Float ONNX + plan -> QDQ ONNX, as onnx-ir passes. Knows neither torch nor the command line."""

from lampq_onnx.converter.convert import Conversion, convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.converter.model_file import load_model, save_model
from lampq_onnx.targets import TARGETS, Target, target_for

__all__ = [
    "TARGETS",
    "Conversion",
    "Target",
    "convert_model",
    "inspect_model",
    "load_model",
    "save_model",
    "target_for",
]
