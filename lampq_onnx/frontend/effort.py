"""What each effort does: the one place that trades time for accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lampq_onnx.frontend.rounding.gptq import DAMPING
from lampq_onnx.frontend.rounding.ladder import WIDE_DAMPINGS, LadderSettings
from lampq_onnx.frontend.rounding.reconstruct import ReconstructSettings
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.options import EffortName


@dataclass(frozen=True)
class Effort:
    """Settings of one effort.

    Attributes:
        costs: where the cost of a unit at a width comes from.
        cost_images: images that measured costs are averaged over, at most.
        ladder: None: GPTQ on the float model's inputs, or nearest rounding for all layers, whichever is closer.
        reconstruct, tune: None: left out.
    """

    costs: Literal["measured", "directional"]
    cost_images: int
    ladder: LadderSettings | None
    reconstruct: ReconstructSettings | None
    tune: TuneSettings | None


EFFORTS: dict[EffortName, Effort] = {
    "fast": Effort("directional", 128, None, None, None),
    "balanced": Effort("measured", 64, LadderSettings(), None, None),
    "best": Effort(
        "measured",
        128,
        LadderSettings(dampings=(DAMPING, *WIDE_DAMPINGS)),
        ReconstructSettings(),
        TuneSettings(),
    ),
}
