"""Measures alpha_t: the loss per unit of Fisher trace for each layer type t (paper, type-aware metric)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.shared.batching import Images, logits_of
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.losses import Measure, loss_of
from lampq_onnx.frontend.simulation.simulate import LayerSetting, WeightRounder, simulated
from lampq_onnx.quantization import ActivationQuantizer

SAMPLES_PER_TYPE = 3
"""mu: number of layers that are measured for each type."""

FLOOR = 1e-6
"""Smallest loss of a layer: on few images a measured loss can be zero or negative, but alpha must stay positive."""


@dataclass(frozen=True)
class AlphaResult:
    """Factors by layer type, and the losses that they come from.

    Attributes:
        alpha: layer type -> alpha_t.
        losses: layer -> measured loss, for every sampled layer.
        floored: layers whose measured loss was below `FLOOR`.
    """

    alpha: dict[str, float]
    losses: dict[str, float]
    floored: tuple[str, ...]


NO_ALPHA = AlphaResult({}, {}, ())
"""Nothing was measured."""


def spread(count: int, samples: int) -> list[int]:
    """Positions of ``samples`` items spread evenly over ``count``, away from both ends if there is room."""
    samples = min(samples, count)
    return sorted({int((2 * i + 1) * count / (2 * samples)) for i in range(samples)})


def type_factors(
    model: torch.nn.Module,
    layers: Sequence[ModelLayer],
    traces: Mapping[str, float],
    activations: Mapping[str, ActivationQuantizer],
    rounder: WeightRounder,
    images: Images,
    reference: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    bits: int,
    measure: Measure = "kl",
    samples: int = SAMPLES_PER_TYPE,
    progress: Callable[[int], None] | None = None,
) -> AlphaResult:
    """Measure alpha_t = mean loss / mean trace over sampled layers of type t, each quantized alone to ``bits``.

    Args:
        model: the float model.
        layers: its layers; those outside the budget are not sampled.
        traces: layer -> tr(F_i).
        activations: layer -> input quantizer; a layer without one keeps a float input.
        rounder: rounded weights.
        images: calibration images.
        reference: logits of the float model on ``images``, (n, classes).
        labels: int64 (n,), if known.
        bits: beta, the low bit-width at which losses are measured.
        measure: kind of loss; "top1" is the paper's accuracy drop.
        samples: mu.
        progress: called with the number of layers measured.
    """
    by_type: dict[str, list[ModelLayer]] = defaultdict(list)
    for layer in layers:
        if not layer.fixed:
            by_type[layer.type].append(layer)
    alpha: dict[str, float] = {}
    losses: dict[str, float] = {}
    floored: list[str] = []
    for kind, members in by_type.items():
        chosen = [members[i] for i in spread(len(members), samples)]
        for layer in chosen:
            setting = {layer.name: LayerSetting(bits, activations.get(layer.name))}
            with simulated([layer], setting, rounder):
                loss = loss_of(logits_of(model, images), reference, labels, measure, likelihood_of(model))
            if loss < FLOOR:
                floored.append(layer.name)
            losses[layer.name] = loss
            if progress is not None:
                progress(len(losses))
        mean_loss = sum(max(losses[u.name], FLOOR) for u in chosen) / len(chosen)
        mean_trace = sum(traces[u.name] for u in chosen) / len(chosen)
        alpha[kind] = mean_loss / max(mean_trace, torch.finfo(torch.float64).tiny)
    for layer in layers:
        # Layers outside the budget are not allocated; a factor of 1 leaves their trace unchanged.
        alpha.setdefault(layer.type, 1.0)
    return AlphaResult(alpha, losses, tuple(floored))
