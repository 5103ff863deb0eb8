"""What one layer at one width costs the whole model: the KL to the float model with that layer alone quantized.

The costs come from the very weights that are candidates for the file (after equalization and GPTQ), on images that the
rounding has not seen. Only the blocks from the layer's own on are computed, and only widths near the budget. Others
follow from the nearest measured one by the ratio of their rounding errors; above `MEASURED_UP_TO` the model is in its
quadratic regime, and a measurement would be noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.shared.batching import Images, device_of, tensors, unlabelled
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.shared.units import Unit
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer

MEASURED_UP_TO = 4
"""Widest weights whose cost is measured."""

FLOOR = 1e-9
"""Least cost in nats; a measured KL of zero would make a layer free at any width."""

Setting = Callable[[], None]


def measured_losses(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    settings: Mapping[str, Sequence[Setting]],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Mean KL (nats) of every setting of every unit, each tried alone on the model as it stands.

    Args:
        live: the model; in float unless the caller has quantized parts of it.
        images: what the loss is measured on.
        settings: unit -> changes to try; each sets `live`, which is reset for the unit afterwards.
        progress: called with the number of settings done.
    """
    likelihood = likelihood_of(live.model)
    batches = [batch for batch, _ in tensors(images, live.device, batch_size=batch_size)]
    states = chain.states(batches)
    reference = chain.logits(states)
    losses: dict[str, list[float]] = {}
    done = 0
    for index in range(len(chain)):
        for unit in _near(chain, index):
            if unit.name not in settings:
                continue
            own = []
            for setting in settings[unit.name]:
                setting()
                # A layer before the blocks changes their inputs: those are computed again.
                changed = chain.states(batches) if unit in chain.before else states
                own.append(max(float(likelihood.distance(chain.logits(changed), reference).mean()), FLOOR))
                done += 1
                if progress is not None:
                    progress(done)
            live.set_weight(unit.name, None)
            live.set_input(unit.name, None)
            losses[unit.name] = own
        if index + 1 < len(chain):
            states = chain.advance(states)
    return losses


def _near(chain: BlockChain, index: int) -> Iterator[Unit]:
    if index == 0:
        yield from chain.before
    yield from chain.blocks[index].units
    if index == len(chain) - 1:
        yield from chain.after


def weight_costs(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    units: Sequence[Unit],
    rounder: WeightRounder,
    candidates: Sequence[int],
    *,
    expected_bits: float,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[int, float]]:
    """Unit -> width -> mean KL in nats, for every candidate width.

    Costs never rise with the width: where a measurement says so, which is noise, the cheaper width's cost stands.

    Args:
        expected_bits: average width that is asked for; widths more than one bit below it are not measured either.
    """
    measured = measured_widths(candidates, expected_bits)

    def set_weight(name: str, bits: int) -> Setting:
        return lambda: live.set_weight(name, rounder.quantized(name, bits))

    settings = {unit.name: [set_weight(unit.name, bits) for bits in measured] for unit in units}
    losses = measured_losses(live, chain, images, settings, batch_size=batch_size, progress=progress)
    tiny = torch.finfo(torch.float64).tiny
    costs = {}
    for unit in units:
        known = dict(zip(measured, losses[unit.name], strict=True))
        for bits in candidates:
            nearest = min(measured, key=lambda width: abs(width - bits))
            if bits not in measured:
                ratio = rounder.error(unit.name, bits) / max(rounder.error(unit.name, nearest), tiny)
                known[bits] = known[nearest] * (min(1.0, ratio) if bits > nearest else max(1.0, ratio))
        costs[unit.name] = _falling(known)
    return costs


def measured_widths(candidates: Sequence[int], expected_bits: float) -> tuple[int, ...]:
    """The candidates that are worth measuring: at most `MEASURED_UP_TO`, at least one below what is expected."""
    least = min(math.floor(expected_bits) - 1, MEASURED_UP_TO)
    near = tuple(bits for bits in candidates if least <= bits <= MEASURED_UP_TO)
    return near or (min(candidates, key=lambda bits: abs(bits - MEASURED_UP_TO)),)


def directional_costs(
    model: torch.nn.Module,
    images: Images,
    units: Sequence[Unit],
    rounder: WeightRounder,
    candidates: Sequence[int],
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[int, float]]:
    """The second-order estimate of the same KL, E[(g . dW)^2] / 2, of all units and widths in one pass over the images.

    g is the gradient of one sampled label's negative log-likelihood in the weights, so that E[g g^T] is their Fisher
    information, whose quadratic form is twice the KL of a small change dW.
    """
    changes = {
        unit.name: torch.stack(
            [torch.from_numpy(rounder.quantized(unit.name, bits).dequantize()) for bits in candidates]
        ).to(unit.module.weight) - unit.module.weight.flatten(1)
        for unit in units
    }  # fmt: skip
    sums = {unit.name: torch.zeros(len(candidates), dtype=torch.float64) for unit in units}

    def visit(samples: int, unit: Unit, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        with torch.no_grad():
            gradient = grads_as_tokens(unit.module, grads, samples).mT @ as_tokens(unit.module, inputs, samples)
            inner = gradient.flatten(1) @ changes[unit.name].flatten(1).T
            sums[unit.name] += inner.double().square().sum(0).cpu()

    total = visit_gradients(model, units, unlabelled(images, device_of(model)), visit, seed=seed, progress=progress)
    return {
        name: _falling(dict(zip(candidates, (value / (2 * total)).clamp_min(FLOOR).tolist(), strict=True)))
        for name, value in sums.items()
    }


def activation_costs(
    live: LiveModel,
    chain: BlockChain,
    images: Images,
    quantizers: Mapping[str, Mapping[int, ActivationQuantizer]],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[int, float]]:
    """Unit -> width -> mean KL in nats of that input alone quantized, for the widths in ``quantizers``."""

    def set_input(name: str, quantizer: ActivationQuantizer) -> Setting:
        return lambda: live.set_input(name, quantizer)

    settings = {name: [set_input(name, q) for q in by_width.values()] for name, by_width in quantizers.items()}
    losses = measured_losses(live, chain, images, settings, batch_size=batch_size, progress=progress)
    return {name: _falling(dict(zip(quantizers[name], own, strict=True))) for name, own in losses.items()}


def _falling(costs: Mapping[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    least = float("inf")
    for bits in sorted(costs):
        least = min(least, costs[bits])
        found[bits] = least
    return found
