"""Runs files in onnxruntime: sessions, latency, profiles and fidelity."""

from lampq_onnx.runtime.environment import cpu_flags, describe_environment
from lampq_onnx.runtime.fidelity import layer_errors
from lampq_onnx.runtime.latency import compare_latency
from lampq_onnx.runtime.sessions import Runner, open_runner, open_session

__all__ = [
    "Runner",
    "compare_latency",
    "cpu_flags",
    "describe_environment",
    "layer_errors",
    "open_runner",
    "open_session",
]
