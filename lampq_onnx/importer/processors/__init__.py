"""Reads the settings of Hugging Face's image processors as `Preprocessing`."""

from lampq_onnx.importer.processors.classes import class_name
from lampq_onnx.importer.processors.files import PROCESSOR_FILES, read_processor_file
from lampq_onnx.importer.processors.reading import plain_preprocessing, preprocessing_of, replace_settings

__all__ = [
    "PROCESSOR_FILES",
    "class_name",
    "plain_preprocessing",
    "preprocessing_of",
    "read_processor_file",
    "replace_settings",
]
