"""The converter: float ONNX and a plan to QDQ ONNX, as onnx-ir passes. Knows neither torch nor the command line."""

from lampq_onnx.converter.convert import Conversion, convert_model
from lampq_onnx.converter.inspect import inspect_model

__all__ = ["Conversion", "convert_model", "inspect_model"]
