"""Targets as data: where a file is meant to run, which widths have kernels there, and which storages are read."""

from lampq_onnx.targets.table import ATTENTION_OPSET, BLOCK, BY_CPU, RUNNERS, TARGETS, target_for
from lampq_onnx.targets.target import FLOAT, PACKINGS, Device, Kernel, Packing, Target

__all__ = [
    "ATTENTION_OPSET",
    "BLOCK",
    "BY_CPU",
    "FLOAT",
    "PACKINGS",
    "RUNNERS",
    "TARGETS",
    "Device",
    "Kernel",
    "Packing",
    "Target",
    "target_for",
]
