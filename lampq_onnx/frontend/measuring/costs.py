"""Measures the cost of one layer at one bit-width: the KL to the float model with only that layer quantized.

The costs use the actual candidate weights for the file (after equalization and GPTQ), on images that the rounding has
not seen. Only the blocks from the layer's own block on are computed, and only bit-widths near the budget are measured.
The other costs follow from the nearest measured one by the ratio of the rounding errors. Above `MEASURED_UP_TO` bits
the loss is quadratic in the error, and a measurement would be noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.shared.batching import Images, device_of, tensors, unlabelled
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.levels import dequantized
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.running.processes import ALONE, Group, summed

BATCH = 32
"""Images per forward pass when costs are measured."""

MEASURED_UP_TO = 4
"""Largest weight bit-width whose cost is measured."""

FLOOR = 1e-9
"""Smallest cost in nats; a measured KL of zero would make a layer free at any bit-width."""

MOST_CORRECTION = 2.0
"""Largest factor between a mean over all images and one over half of them that the first setting is believed on.

A larger one says that an image of the other half lost more than three times as much as one of this half. A few images
make such a factor, often ones whose answer changes with the widest setting alone, and it does not carry over to others.
"""

Setting = Callable[[], None]


def measured_losses(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    settings: Mapping[str, Sequence[Setting]],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    also: Mapping[str, Sequence[str]] | None = None,
    halved: int | None = None,
    group: Group = ALONE,
) -> dict[str, list[float]]:
    """Measure the mean KL (nats) of every setting of every layer, each applied alone.

    With ``halved``, the settings from this one on see the first half of the batches. Their mean over these images is
    corrected as that of the first setting would have to be, to be its mean over all: what one image adds differs much
    between images, but little between settings of one layer. Nothing is corrected where the first setting loses nothing
    on these images.

    Args:
        live: the model; in float unless the caller has quantized parts of it.
        chain: its blocks.
        images: images that the loss is measured on.
        settings: layer -> changes to try; each changes ``live``. The layer is back in float afterwards.
        batch_size: images per forward pass.
        progress: called with the number of settings done.
        also: layer -> layers of its block that its settings change too.
        halved: first of the settings that see half of the batches; None: all see all of them.
        group: processes that share the images.

    Returns:
        Layer -> mean KL of each of its settings, in their order.
    """
    likelihood = likelihood_of(live.model)
    batch_size = min(batch_size, -(-len(images) // group.size))
    batches = [batch for batch, _ in tensors(images, live.device, batch_size=batch_size, group=group)]
    own_images = sum(map(len, batches))
    if not batches:  # fewer batches than processes
        return _shared({name: [NOTHING] * len(own) for name, own in settings.items()}, 0, group)
    own_half = _own_half(list(map(len, batches)), len(images), batch_size, group)
    states = chain.states(batches)
    reference = chain.logits(states)
    losses: dict[str, list[_Sums]] = {}
    done = 0
    for index in range(len(chain)):
        for layer in _near(chain, index):
            if layer.name not in settings:
                continue
            own: list[torch.Tensor] = []
            counts: list[int] = []
            for place, setting in enumerate(settings[layer.name]):
                setting()
                few = len(batches) if halved is None or place < halved else own_half
                # A layer before the blocks changes their inputs, so they are computed again.
                changed = chain.states(batches[:few]) if layer in chain.before else states.first(few)
                counts.append(len(changed) if few else 0)
                own.append(likelihood.distance(chain.logits(changed), reference[: len(changed)]) if few else own[0][:0])
                done += 1
                if progress is not None:
                    progress(done)
            for name in (layer.name, *(also or {}).get(layer.name, ())):
                live.set_weight(name, None)
                live.set_input(name, None)
            losses[layer.name] = [
                _Sums(float(values.sum()), float(own[0][: len(values)].sum()), float(own[0].sum()), float(count))
                for values, count in zip(own, counts, strict=True)
            ]
        if index + 1 < len(chain):
            states = chain.advance(states)
    return _shared({name: losses[name] for name in settings}, own_images, group)


def _own_half(sizes: Sequence[int], images: int, batch_size: int, group: Group) -> int:
    """Count the own batches that belong to the first half of all processes' batches.

    Args:
        sizes: images in each pass of this process; a batch of large images is several passes.
        images: number of images of all processes.
        batch_size: images in every batch but the last.
        group: the processes, which take the batches in turns.
    """
    half = math.ceil(math.ceil(images / batch_size) / 2)
    before = np.cumsum([0, *sizes[:-1]])
    return int(np.count_nonzero(before // batch_size * group.size + group.rank < half))


class _Sums(NamedTuple):
    """Sums of the losses of one setting of a layer.

    Attributes:
        seen: over the images that it saw.
        first_seen: of the layer's first setting, over the same images.
        first: of the first setting, over all images.
        images: number of images that it saw.
    """

    seen: float
    first_seen: float
    first: float
    images: float


NOTHING = _Sums(0.0, 0.0, 0.0, 0.0)


def _shared(losses: Mapping[str, Sequence[_Sums]], own_images: int, group: Group) -> dict[str, list[float]]:
    """Means over the images of all processes; none is below `FLOOR`."""
    flat, total = np.array([sums for own in losses.values() for sums in own], np.float64).reshape(-1, 4), own_images
    if group.size > 1:
        flat = group.sum(flat)
        total = int(group.sum(np.array([own_images], np.float64))[0])
    seen, first_seen, first, images = flat.T
    known = first_seen > FLOOR * images  # less is float noise, and so would be a ratio to it
    correction = np.divide(first / total, first_seen / images, out=np.ones(len(flat)), where=known)
    correction = np.clip(correction, 1 / MOST_CORRECTION, MOST_CORRECTION)
    values = iter(np.maximum(seen / images * correction, FLOOR).tolist())
    return {name: [next(values) for _ in own] for name, own in losses.items()}


def _near(chain: BlockChain, index: int) -> Iterator[ModelLayer]:
    if index == 0:
        yield from chain.before
    yield from chain.blocks[index].layers
    if index == len(chain) - 1:
        yield from chain.after


def weight_costs(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    layers: Sequence[ModelLayer],
    rounder: WeightRounder,
    candidates: Sequence[int],
    *,
    expected_bits: float,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> dict[str, dict[int, float]]:
    """Measure the mean KL in nats of every candidate weight bit-width of every layer.

    Costs never rise with the bit-width: if a measurement does, which is noise, the lower cost is used. The widest of
    the measured widths sees all images, the others half of them.

    Args:
        live: the float model.
        chain: its blocks.
        images: images that the loss is measured on.
        layers: layers to measure.
        rounder: rounded weights.
        candidates: bit-widths.
        expected_bits: average bit-width of the budget; widths more than one bit below it are not measured either.
        batch_size: images per forward pass.
        progress: called with the number of measurements done.
        group: processes that share the images.

    Returns:
        Layer -> bit-width -> mean KL.
    """
    measured = tuple(reversed(measured_widths(candidates, expected_bits)))

    def set_weight(name: str, bits: int) -> Setting:
        return lambda: live.set_weight(name, rounder.quantized(name, bits))

    settings = {layer.name: [set_weight(layer.name, bits) for bits in measured] for layer in layers}
    losses = measured_losses(
        live, chain, images, settings, batch_size=batch_size, progress=progress, halved=1, group=group
    )
    tiny = torch.finfo(torch.float64).tiny
    costs = {}
    for layer in layers:
        known = dict(zip(measured, losses[layer.name], strict=True))
        for bits in candidates:
            nearest = min(measured, key=lambda width: abs(width - bits))
            if bits not in measured:
                ratio = rounder.error(layer.name, bits) / max(rounder.error(layer.name, nearest), tiny)
                known[bits] = known[nearest] * (min(1.0, ratio) if bits > nearest else max(1.0, ratio))
        costs[layer.name] = _falling(known)
    return costs


def batch_of_halves(images: int) -> int:
    """Images per forward pass of `weight_costs`: at least two passes, so that half of the images are whole ones."""
    return min(BATCH, max(1, math.ceil(images / 2)))


def measured_widths(candidates: Sequence[int], expected_bits: float) -> tuple[int, ...]:
    """Candidates that are worth measuring.

    They have at most `MEASURED_UP_TO` bits, and are at most one bit below the expected average.
    """
    least = min(math.floor(expected_bits) - 1, MEASURED_UP_TO)
    near = tuple(bits for bits in candidates if least <= bits <= MEASURED_UP_TO)
    return near or (min(candidates, key=lambda bits: abs(bits - MEASURED_UP_TO)),)


def directional_costs(
    model: torch.nn.Module,
    images: Images,
    layers: Sequence[ModelLayer],
    rounder: WeightRounder,
    candidates: Sequence[int],
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> dict[str, dict[int, float]]:
    """Estimate the same KL to second order as E[(g . dW)^2] / 2.

    One pass over the images covers all layers and bit-widths. g is the gradient of the negative log-likelihood of one
    sampled label in the weights. E[g g^T] is therefore the Fisher information of the weights, and its quadratic form is
    twice the KL of a small change dW.
    """
    sums = {layer.name: torch.zeros(len(candidates), dtype=torch.float64) for layer in layers}

    def visit(samples: int, layer: ModelLayer, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        with torch.no_grad():
            gradient = grads_as_tokens(layer.module, grads, samples).mT @ as_tokens(layer.module, inputs, samples)
            weight, flat = layer.module.weight.flatten(1), gradient.flatten(1)
            for column, bits in enumerate(candidates):
                change = dequantized(rounder.quantized(layer.name, bits), weight).sub_(weight)
                inner = flat @ change.flatten()
                sums[layer.name][column] += inner.double().square().sum().cpu()

    batches = unlabelled(images, device_of(model), group=group)
    own_images = visit_gradients(model, layers, batches, visit, seed=seed, group=group, progress=progress)
    total = max(summed({"images": own_images}, group)["images"], 1)
    if not sums:
        return {}
    means = np.maximum(group.sum(torch.stack(list(sums.values())).numpy()) / (2 * total), FLOOR)
    return {
        name: _falling(dict(zip(candidates, own, strict=True))) for name, own in zip(sums, means.tolist(), strict=True)
    }


def activation_costs(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    quantizers: Mapping[str, Mapping[int, ActivationQuantizer]],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> dict[str, dict[int, float]]:
    """Measure the mean KL in nats with one layer's input quantized alone: layer -> bit-width -> KL."""

    def set_input(name: str, quantizer: ActivationQuantizer) -> Setting:
        return lambda: live.set_input(name, quantizer)

    settings = {name: [set_input(name, q) for q in by_width.values()] for name, by_width in quantizers.items()}
    losses = measured_losses(live, chain, images, settings, batch_size=batch_size, progress=progress, group=group)
    return {name: _falling(dict(zip(quantizers[name], own, strict=True))) for name, own in losses.items()}


def grouped_activation_costs(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    quantizers: Mapping[str, Mapping[int, ActivationQuantizer]],
    matters: Mapping[str, float],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> dict[str, dict[int, float]]:
    """Measure costs like `activation_costs`, but one by one only in blocks where that can decide something.

    If all inputs of a block together cost less than each of its layers is charged for a wider input, no layer gets one.
    Each layer is then given the cost of the block, which is more than its own.

    Args:
        live: the float model.
        chain: its blocks.
        images: images that the loss is measured on.
        quantizers: layer -> bit-width -> quantizer of its input.
        matters: layer -> nats below which its cost decides nothing.
        batch_size: images per forward pass.
        progress: called with the number of measurements done.
        group: processes that share the images.
    """
    groups: dict[int, list[ModelLayer]] = {}
    for name in quantizers:
        layer = live.layers[name]
        groups.setdefault(chain.index_of(layer), []).append(layer)
    widths = sorted({width for own in quantizers.values() for width in own})

    def set_inputs(members: Sequence[ModelLayer], width: int) -> Setting:
        def change() -> None:
            for layer in members:
                live.set_input(layer.name, quantizers[layer.name].get(width))

        return change

    first = {members[0].name: [set_inputs(members, width) for width in widths] for members in groups.values()}
    joint = measured_losses(
        live, chain, images, first, batch_size=batch_size, progress=progress, group=group,
        also={members[0].name: [layer.name for layer in members] for members in groups.values()},
    )  # fmt: skip
    costs: dict[str, dict[int, float]] = {}
    alone: dict[str, Mapping[int, ActivationQuantizer]] = {}
    for members in groups.values():
        together = dict(zip(widths, joint[members[0].name], strict=True))
        for layer in members:
            own = quantizers[layer.name]
            costs[layer.name] = _falling({width: together[width] for width in own})
        if max(together.values()) > min(matters[layer.name] for layer in members):
            alone |= {layer.name: quantizers[layer.name] for layer in members}
    if alone:
        costs |= activation_costs(live, chain, images, alone, batch_size=batch_size, group=group)
    return costs


def _falling(costs: Mapping[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    least = float("inf")
    for bits in sorted(costs):
        least = min(least, costs[bits])
        found[bits] = least
    return found
