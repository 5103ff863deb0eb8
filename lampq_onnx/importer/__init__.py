"""Turns foreign ONNX files into float32 graphs in the form that the other stages expect, without PyTorch."""

from lampq_onnx.importer.files import is_foreign, write_normal_form
from lampq_onnx.importer.normalize import Imported, import_model

__all__ = ["Imported", "import_model", "is_foreign", "write_normal_form"]
