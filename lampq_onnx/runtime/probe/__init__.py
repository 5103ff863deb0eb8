"""Measure the times of layers on this machine, in every form that a target offers."""

from lampq_onnx.runtime.probe.probe import ProbeOptions, probe

__all__ = ["ProbeOptions", "probe"]
