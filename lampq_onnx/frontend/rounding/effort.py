"""What each effort does: the one place that trades time for accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lampq_onnx.config.options import DEFAULT_CALIBRATION_SIZE, EffortName
from lampq_onnx.frontend.rounding.ladder import WIDE_DAMPING, LadderSettings
from lampq_onnx.frontend.rounding.reconstruct import ReconstructSettings
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.frontend.simulation.gptq import DAMPING

BEST_IMAGES = 1024
"""Tuning uses them all: on DeiT-Ti at W3A8 a KL of .16 with 128 images and .15 with 256."""


@dataclass(frozen=True)
class Effort:
    """Settings of one effort.

    Attributes:
        images: calibration images, unless the user says how many.
        costs: where the cost of a unit at a width comes from.
        cost_images: images that measured costs are averaged over, at most.
        ladder: None: GPTQ on the float model's inputs, or nearest rounding for all layers, whichever is closer.
        reconstruct, tune: None: left out.
    """

    images: int
    costs: Literal["measured", "directional"]
    cost_images: int
    ladder: LadderSettings | None
    reconstruct: ReconstructSettings | None
    tune: TuneSettings | None


EFFORTS: dict[EffortName, Effort] = {
    "fast": Effort(DEFAULT_CALIBRATION_SIZE, "directional", 128, None, None, None),
    "balanced": Effort(DEFAULT_CALIBRATION_SIZE, "measured", 64, LadderSettings(), None, None),
    "best": Effort(
        BEST_IMAGES,
        "measured",
        96,
        LadderSettings(dampings=(DAMPING, WIDE_DAMPING)),
        ReconstructSettings(),
        TuneSettings(),
    ),
}
