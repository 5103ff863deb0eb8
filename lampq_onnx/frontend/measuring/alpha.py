"""alpha_t: what a unit of trace costs, by layer type (paper, type-aware part of the metric)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.shared.batching import Images, logits_of
from lampq_onnx.frontend.shared.units import Unit
from lampq_onnx.frontend.simulation.losses import Measure, loss_of
from lampq_onnx.frontend.simulation.simulate import LayerSetting, WeightRounder, simulated
from lampq_onnx.quantization import ActivationQuantizer

SAMPLES_PER_TYPE = 3
"""mu: layers of each type that are measured."""

FLOOR = 1e-6
"""Least loss taken for a layer: on few images a measured loss can be zero or negative, and alpha must stay positive."""


@dataclass(frozen=True)
class AlphaResult:
    """Factors by type, and the measured loss of every sampled unit."""

    alpha: dict[str, float]
    losses: dict[str, float]
    floored: tuple[str, ...]


def spread(count: int, samples: int) -> list[int]:
    """Positions of ``samples`` items spread evenly over ``count``, ends excluded where there is room."""
    samples = min(samples, count)
    return sorted({int((2 * i + 1) * count / (2 * samples)) for i in range(samples)})


def type_factors(
    model: torch.nn.Module,
    units: Sequence[Unit],
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
    """alpha_t = mean loss / mean trace over sampled layers of type t, each quantized alone to ``bits``.

    Args:
        traces: tr(F_i) by unit.
        activations: input quantizers; a unit without one keeps a float input.
        images, reference, labels: calibration images, the float model's logits on them, labels if known.
        bits: beta, the low width at which losses are measured.
        measure: what a loss is; the paper's accuracy drop is `top1`.
        samples: mu.
        progress: called with the number of layers measured.
    """
    by_type: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        if not unit.fixed:
            by_type[unit.type].append(unit)
    alpha: dict[str, float] = {}
    losses: dict[str, float] = {}
    floored: list[str] = []
    for kind, members in by_type.items():
        chosen = [members[i] for i in spread(len(members), samples)]
        for unit in chosen:
            setting = {unit.name: LayerSetting(bits, activations.get(unit.name))}
            with simulated([unit], setting, rounder):
                loss = loss_of(logits_of(model, images), reference, labels, measure, likelihood_of(model))
            if loss < FLOOR:
                floored.append(unit.name)
            losses[unit.name] = loss
            if progress is not None:
                progress(len(losses))
        mean_loss = sum(max(losses[u.name], FLOOR) for u in chosen) / len(chosen)
        mean_trace = sum(traces[u.name] for u in chosen) / len(chosen)
        alpha[kind] = mean_loss / max(mean_trace, torch.finfo(torch.float64).tiny)
    for unit in units:
        # Fixed units take no part in the allocation; 1 leaves their trace as it is.
        alpha.setdefault(unit.type, 1.0)
    return AlphaResult(alpha, losses, tuple(floored))
