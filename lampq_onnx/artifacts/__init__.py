"""Typed, versioned values that the stages exchange, each with a JSON file form."""

from lampq_onnx.artifacts.channel_widths import ChannelWidths
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import BitPlan, LayerPlan
from lampq_onnx.artifacts.report import Report
from lampq_onnx.artifacts.sensitivities import ActivationRange, LayerSensitivity, ModelIdentity, Sensitivities

__all__ = [
    "ActivationRange",
    "BitPlan",
    "ChannelWidths",
    "LatencyTable",
    "LayerPlan",
    "LayerSensitivity",
    "ModelIdentity",
    "Report",
    "Sensitivities",
]
