"""Mixed-precision quantization of Vision Transformers: ONNX in, standard ONNX out.

The names below are the whole interface; modules and names that are not here may change without notice. They import what
they need when they are first used, so that ``import lampq_onnx`` loads neither numpy nor torch nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lampq_onnx.allocation.options import AllocationOptions
    from lampq_onnx.api.files import allocate, convert, doctor, reproduce, validate
    from lampq_onnx.api.models import analyze, quantize, recognize, sweep
    from lampq_onnx.artifacts.channel_widths import ChannelWidths
    from lampq_onnx.artifacts.details import (
        AnswerChanges,
        ChangedImage,
        ClassChange,
        Details,
        OperatorTime,
        OperatorTimes,
        OutputError,
        OutputErrors,
    )
    from lampq_onnx.artifacts.finding import Finding
    from lampq_onnx.artifacts.gates import GateLimits, Problem
    from lampq_onnx.artifacts.granularity import GranularityTrial
    from lampq_onnx.artifacts.latency import LatencyTable, LayerTime, LayerTimes, ProbedLayer
    from lampq_onnx.artifacts.not_done import NotDone
    from lampq_onnx.artifacts.plan import BitPlan, LayerPlan
    from lampq_onnx.artifacts.report import (
        Accuracy,
        Allocation,
        Baseline,
        Bits,
        Environment,
        Fidelity,
        Latency,
        LayerReport,
        Report,
        RoundingRecord,
        Size,
        TopK,
    )
    from lampq_onnx.artifacts.sensitivities import (
        ActivationRange,
        AgreementPoint,
        LayerSensitivity,
        ModelIdentity,
        Sensitivities,
    )
    from lampq_onnx.artifacts.sweep import Sweep, SweepPoint
    from lampq_onnx.config.inputs import ImageOptions, ModelOptions
    from lampq_onnx.config.keywords import (
        AllocateKeywords,
        AnalyzeKeywords,
        ConvertKeywords,
        DoctorKeywords,
        QuantizeKeywords,
        SweepKeywords,
        ValidateKeywords,
    )
    from lampq_onnx.config.options import AnalysisOptions, BudgetOptions, RoundingOptions, UpdateOptions
    from lampq_onnx.config.output import OutputOptions
    from lampq_onnx.config.recipe import Recipe
    from lampq_onnx.converter.convert import Conversion
    from lampq_onnx.converter.inspect import QuantizedLayer
    from lampq_onnx.converter.packing.storage import Stored
    from lampq_onnx.data.preprocessing import Preprocessing
    from lampq_onnx.data.resizing import Placement, Resize
    from lampq_onnx.errors import GateError, LampqError, ScoreError, UsageError
    from lampq_onnx.evaluation.gates import GateResult, gates_of, require_gates
    from lampq_onnx.evaluation.two_runs import AnswerPair, Figure, TwoRuns, WidthChange
    from lampq_onnx.graph.parameters import LayerFacts, LayerParameters
    from lampq_onnx.graph.recognition import PlannedStage, Recognition, RecognizedLayer
    from lampq_onnx.graph.refusals import Refusal
    from lampq_onnx.quantization.activations import ActivationQuantizer
    from lampq_onnx.quantization.grids import Grid
    from lampq_onnx.quantization.weights import QuantizedWeight, RowWidths
    from lampq_onnx.running.progress import ProgressSink
    from lampq_onnx.runtime.explain import Explanation
    from lampq_onnx.runtime.layer_kernels import LayerKernel
    from lampq_onnx.serving.formats import Packaged, package
    from lampq_onnx.workflow.comparing import compare
    from lampq_onnx.workflow.inspecting import explain, inspect, probe
    from lampq_onnx.workflow.reporting import report
    from lampq_onnx.workflow.reproduce import Reproduction

_NAMES = {
    "lampq_onnx.allocation.options": ("AllocationOptions",),
    "lampq_onnx.api.files": ("allocate", "convert", "doctor", "reproduce", "validate"),
    "lampq_onnx.api.models": ("analyze", "quantize", "recognize", "sweep"),
    "lampq_onnx.artifacts.details": (
        "AnswerChanges",
        "ChangedImage",
        "ClassChange",
        "Details",
        "OperatorTime",
        "OperatorTimes",
        "OutputError",
        "OutputErrors",
    ),
    "lampq_onnx.artifacts.channel_widths": ("ChannelWidths",),
    "lampq_onnx.artifacts.finding": ("Finding",),
    "lampq_onnx.artifacts.gates": ("GateLimits", "Problem"),
    "lampq_onnx.artifacts.granularity": ("GranularityTrial",),
    "lampq_onnx.artifacts.latency": ("LatencyTable", "LayerTime", "LayerTimes", "ProbedLayer"),
    "lampq_onnx.artifacts.not_done": ("NotDone",),
    "lampq_onnx.artifacts.plan": ("BitPlan", "LayerPlan"),
    "lampq_onnx.artifacts.report": (
        "Accuracy",
        "Allocation",
        "Baseline",
        "Bits",
        "Environment",
        "Fidelity",
        "Latency",
        "LayerReport",
        "Report",
        "RoundingRecord",
        "Size",
        "TopK",
    ),
    "lampq_onnx.artifacts.sensitivities": (
        "ActivationRange",
        "AgreementPoint",
        "ModelIdentity",
        "Sensitivities",
        "LayerSensitivity",
    ),
    "lampq_onnx.artifacts.sweep": ("Sweep", "SweepPoint"),
    "lampq_onnx.config.keywords": (
        "AllocateKeywords",
        "AnalyzeKeywords",
        "ConvertKeywords",
        "DoctorKeywords",
        "QuantizeKeywords",
        "SweepKeywords",
        "ValidateKeywords",
    ),
    "lampq_onnx.config.inputs": ("ImageOptions", "ModelOptions"),
    "lampq_onnx.config.options": ("AnalysisOptions", "BudgetOptions", "RoundingOptions", "UpdateOptions"),
    "lampq_onnx.config.output": ("OutputOptions",),
    "lampq_onnx.config.recipe": ("Recipe",),
    "lampq_onnx.converter.convert": ("Conversion",),
    "lampq_onnx.converter.inspect": ("QuantizedLayer",),
    "lampq_onnx.converter.packing.storage": ("Stored",),
    "lampq_onnx.data.preprocessing": ("Preprocessing",),
    "lampq_onnx.data.resizing": ("Placement", "Resize"),
    "lampq_onnx.errors": ("GateError", "LampqError", "ScoreError", "UsageError"),
    "lampq_onnx.evaluation.two_runs": ("AnswerPair", "Figure", "TwoRuns", "WidthChange"),
    "lampq_onnx.evaluation.gates": ("GateResult", "gates_of", "require_gates"),
    "lampq_onnx.graph.parameters": ("LayerFacts", "LayerParameters"),
    "lampq_onnx.graph.recognition": ("PlannedStage", "Recognition", "RecognizedLayer"),
    "lampq_onnx.graph.refusals": ("Refusal",),
    "lampq_onnx.quantization.activations": ("ActivationQuantizer",),
    "lampq_onnx.quantization.grids": ("Grid",),
    "lampq_onnx.quantization.weights": ("QuantizedWeight", "RowWidths"),
    "lampq_onnx.running.progress": ("ProgressSink",),
    "lampq_onnx.runtime.explain": ("Explanation",),
    "lampq_onnx.runtime.layer_kernels": ("LayerKernel",),
    "lampq_onnx.serving.formats": ("Packaged", "package"),
    "lampq_onnx.workflow.comparing": ("compare",),
    "lampq_onnx.workflow.inspecting": ("explain", "inspect", "probe"),
    "lampq_onnx.workflow.reporting": ("report",),
    "lampq_onnx.workflow.reproduce": ("Reproduction",),
}
"""Module -> the names that it gives."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Accuracy",
    "ActivationQuantizer",
    "ActivationRange",
    "AgreementPoint",
    "AllocateKeywords",
    "Allocation",
    "AllocationOptions",
    "AnalysisOptions",
    "AnalyzeKeywords",
    "AnswerChanges",
    "AnswerPair",
    "Baseline",
    "BitPlan",
    "Bits",
    "BudgetOptions",
    "ChangedImage",
    "ChannelWidths",
    "ClassChange",
    "Conversion",
    "ConvertKeywords",
    "Details",
    "DoctorKeywords",
    "Environment",
    "Explanation",
    "Fidelity",
    "Figure",
    "Finding",
    "GateError",
    "GateLimits",
    "GateResult",
    "GranularityTrial",
    "Grid",
    "ImageOptions",
    "LampqError",
    "Latency",
    "LatencyTable",
    "LayerFacts",
    "LayerKernel",
    "LayerParameters",
    "LayerPlan",
    "LayerReport",
    "LayerSensitivity",
    "LayerTime",
    "LayerTimes",
    "ModelIdentity",
    "ModelOptions",
    "NotDone",
    "OperatorTime",
    "OperatorTimes",
    "OutputError",
    "OutputErrors",
    "OutputOptions",
    "Packaged",
    "Placement",
    "PlannedStage",
    "Preprocessing",
    "ProbedLayer",
    "Problem",
    "ProgressSink",
    "QuantizeKeywords",
    "QuantizedLayer",
    "QuantizedWeight",
    "Recipe",
    "Recognition",
    "RecognizedLayer",
    "Refusal",
    "Report",
    "Reproduction",
    "Resize",
    "RoundingOptions",
    "RoundingRecord",
    "RowWidths",
    "ScoreError",
    "Sensitivities",
    "Size",
    "Stored",
    "Sweep",
    "SweepKeywords",
    "SweepPoint",
    "TopK",
    "TwoRuns",
    "UpdateOptions",
    "UsageError",
    "ValidateKeywords",
    "WidthChange",
    "allocate",
    "analyze",
    "compare",
    "convert",
    "doctor",
    "explain",
    "gates_of",
    "inspect",
    "package",
    "probe",
    "quantize",
    "recognize",
    "report",
    "reproduce",
    "require_gates",
    "sweep",
    "validate",
]

if not TYPE_CHECKING:  # type checkers find misspelled names

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
