"""Quantized files in the forms that servers and devices take."""

from lampq_onnx.serving.formats import FORMATS, Packaged, package

__all__ = ["FORMATS", "Packaged", "package"]
