"""Foreign ONNX files -> float32 graphs in the form that the other stages work on. Knows neither torch nor the CLI."""

from lampq_onnx.importer.files import is_foreign, write_normal_form
from lampq_onnx.importer.normalize import Imported, import_model

__all__ = ["Imported", "import_model", "is_foreign", "write_normal_form"]
