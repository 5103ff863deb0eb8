"""Equalization of a model: strengths are chosen, applied to its weights, and the function is compared with before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.equalization.fold import apply
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.equalization.strengths import Strength, choose_strengths, closed_form_decides, of_links, plain
from lampq_onnx.frontend.measuring.samples import split
from lampq_onnx.frontend.shared.batching import SlicedImages, device_of, tensors
from lampq_onnx.frontend.shared.changes import relative_change
from lampq_onnx.frontend.shared.kept import Kept
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.running.progress import ProgressSink

IMAGES = 64
"""Images for the choice of the strengths; three quarters give the ranges of channels, the others compare the options.

With these instead of twice as many, the KL of DeiT-Ti at 4 bits changes by 0.7 ± 1.2 % over five seeds.
"""

TRIAL_IMAGES = 4
"""Images that an equalization is checked on."""

BOUND = 1e-4
"""Largest relative change of the logits by an equalization that float rounding explains."""


def compares_options(weight_bits: float, activation_bits: int | str) -> bool:
    """Whether options are compared by rounding the weights with them; if not, a closed form decides."""
    return not closed_form_decides(weight_bits, equalized_width(weight_bits, activation_bits))


def equalized_width(weight_bits: float, activation_bits: int | str) -> int:
    """Width of the inputs that a model is equalized for."""
    if isinstance(activation_bits, int):
        return activation_bits
    return round(weight_bits) if activation_bits == "same" else FIXED_BITS


def equalize_channels(
    loaded: LoadedModel,
    links_of: Callable[[torch.Tensor], Sequence[Link]],
    images: SlicedImages,
    options: AnalysisOptions,
    *,
    block: int | None,
    seed: int,
    progress: ProgressSink,
    kept: Kept,
) -> list[Strength]:
    """Scale and shift input channels of a model where that lowers the expected loss; its function stays.

    Args:
        loaded: the model, whose weights change.
        links_of: finds the places where channels can be equalized, with trials on images.
        images: calibration images.
        options: widths to equalize for.
        block: inputs that share a scale, see `Target.block`.
        seed: seed of sampled gradients.
        progress: told of the stage.
        kept: results that an earlier run finished.

    Returns:
        What was applied.

    Raises:
        LampqError: the function of the model changed.
    """
    module = loaded.module
    fit, held_out = split(images.slice(0, IMAGES))
    sample = next(tensors(images, device_of(module), batch_size=TRIAL_IMAGES))[0]
    width = equalized_width(options.weight_bits, options.activation_bits)
    with progress.stage("equalization", len(held_out)) as advance:
        before = _outputs(module, sample)
        links = links_of(sample)
        found = kept.get(
            "equalization",
            lambda: plain(
                choose_strengths(
                    module, links, fit, held_out, weight_bits=round(options.weight_bits), activation_bits=width,
                    seed=seed, block=block, progress=advance,
                )
            ),
        )  # fmt: skip
        chosen = [strength for strength in of_links(found, links) if strength.strength > 0]
        for strength in chosen:
            apply(strength.equalization)
        change = relative_change(module, _outputs(module, sample), before)
        if not change <= BOUND:
            raise LampqError(
                f"equalization changes the logits of {loaded.identity.name} by {change:.1e} (bound {BOUND:.0e})",
                hint="run without it: --no-equalize",
            )
    return chosen


@torch.no_grad()
def _outputs(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Outputs of the images, float64 (n, ...)."""
    result: torch.Tensor = module(images).double()
    return result
