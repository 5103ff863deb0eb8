"""Defines each effort: the only place that trades time for accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lampq_onnx.config.inputs import DEFAULT_CALIBRATION_SIZE
from lampq_onnx.config.options import EffortName
from lampq_onnx.frontend.rounding.ladder import WIDE_DAMPING, LadderSettings
from lampq_onnx.frontend.rounding.longer import LongerSettings
from lampq_onnx.frontend.rounding.reconstruct import ReconstructSettings
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.frontend.simulation.gptq import DAMPING

BEST_IMAGES = 1024
"""Calibration images of the effort "best", all used by tuning.

DeiT-Ti at W3A8 has a KL of .16 with 128 images and of .15 with 256.
"""


COST_IMAGES = 32
"""Images of the measured costs of effort balanced.

With these instead of twice as many, the KL changes by -0.7 ± 4.7 % (DeiT-Ti, 4 bits), 0.7 ± 2.5 % (3 bits) and
-0.9 ± 2.8 % (a ViT of CIFAR-10, 3 bits) over five seeds: `tools/bench/ablation.py --effort balanced`.
"""


@dataclass(frozen=True)
class Effort:
    """Settings of one effort.

    Attributes:
        images: calibration images, unless the user gives a number.
        costs: how the cost of a layer at a bit-width is found: measured, or estimated from gradients.
        cost_images: largest number of images that measured costs are averaged over.
        ladder: settings of layer-by-layer rounding; None uses GPTQ on the float model's inputs or nearest rounding for
            all layers, whichever is closer to float.
        reconstruct: settings of block reconstruction; None skips it.
        tune: settings of tuning the whole model; None skips it.
        longer: settings of the long training after it; None skips it.
    """

    images: int
    costs: Literal["measured", "directional"]
    cost_images: int
    ladder: LadderSettings | None
    reconstruct: ReconstructSettings | None
    tune: TuneSettings | None
    longer: LongerSettings | None = None


_BEST = Effort(
    BEST_IMAGES,
    "measured",
    96,
    LadderSettings(dampings=(DAMPING, WIDE_DAMPING)),
    ReconstructSettings(),
    TuneSettings(),
)

EFFORTS: dict[EffortName, Effort] = {
    "fast": Effort(DEFAULT_CALIBRATION_SIZE, "directional", 128, None, None, None),
    "balanced": Effort(DEFAULT_CALIBRATION_SIZE, "measured", COST_IMAGES, LadderSettings(latent=False), None, None),
    "best": _BEST,
    "max": replace(_BEST, longer=LongerSettings()),
}
