"""Times of layers in every form that a target offers, on this machine."""

from lampq_onnx.runtime.probe.probe import ProbeOptions, probe

__all__ = ["ProbeOptions", "probe"]
