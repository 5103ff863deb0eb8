"""Write quantized files in the formats that servers and devices take."""

from lampq_onnx.serving.formats import FORMATS, Packaged, package

__all__ = ["FORMATS", "Packaged", "package"]
