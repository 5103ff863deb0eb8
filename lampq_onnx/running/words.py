"""Stages in words that users know. Reports and logs of Python keep the short names."""

from __future__ import annotations

WORDS = {
    "load": "loading the model",
    "calibration images": "reading calibration images",
    "synthetic images": "making calibration images from the model",
    "export": "exporting the float model to ONNX",
    "equalization": "equalizing input channels",
    "input moments": "collecting input statistics",
    "ranges": "finding the range of each input",
    "traces": "measuring how sensitive each layer is",
    "weight errors": "rounding each layer at every width",
    "nuclear norms": "measuring the outputs of each layer",
    "alpha": "comparing the kinds of layers",
    "cost candidates": "rounding each layer at every width",
    "channel shares": "measuring what each output channel costs",
    "costs": "measuring what each width costs",
    "input costs": "measuring what narrow inputs cost",
    "simulated plans": "simulating plans",
    "granularity": "comparing groups with whole layers",
    "allocation": "choosing the bits of each layer",
    "iterative update": "trying to swap bits between layers",
    "rounding": "rounding the weights",
    "block reconstruction": "refining the rounding block by block",
    "tuning": "tuning the whole model",
    "long training": "training the whole model for long",
    "overflows": "finding what overflows in float16",
    "conversion": "writing the quantized file",
    "simulation": "simulating the quantized file",
    "validation": "checking the accuracy",
    "fidelity": "checking the kernels of the file",
    "latency": "timing both files",
    "output errors": "measuring where the error grows",
    "reconstruction errors": "measuring the error of each layer",
    "layers": "timing each layer",
    "whole files": "timing whole files",
}
"""Name of a stage -> what it does."""

KEPT = " (kept)"
"""Ending of the name of a stage whose result an earlier run has kept."""

_BASELINE = "baseline "


def words_for(stage: str) -> str:
    """Return what a stage does, in words that users know; unknown names are returned as they are."""
    if stage.endswith(KEPT):
        return f"{words_for(stage.removesuffix(KEPT))}: kept from an earlier run"
    if stage.startswith(_BASELINE):
        return f"comparing with {stage.removeprefix(_BASELINE)} bits"
    return WORDS.get(stage, stage)


def seconds_text(seconds: float) -> str:
    """Return a duration with two significant figures or so: 7 s, 48 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
