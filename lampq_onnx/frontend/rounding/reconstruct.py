"""Block reconstruction: learns the rounding of one block after the other (BRECQ, Li et al., ICLR 2021).

The error d of a block's output is weighted by the Fisher information of that output, as its diagonal plus a low-rank
part (FIMA-Q, Wu et al., CVPR 2025): sum g^2 d^2 + (g . d)^2, with g the loss gradient of one sampled label per image.
Every weight learns which of the two levels around it to take (AdaRound, Nagel et al., ICML 2020). A random part of the
inputs stays in float during training (QDrop, Wei et al., ICLR 2022). If the new rounding of a block does not lower the
KL of the whole model on held-out images, the block keeps the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.trainable import TrainableLayer, Trained
from lampq_onnx.frontend.rounding.tune import trained
from lampq_onnx.frontend.shared.batching import Images, tensors
from lampq_onnx.frontend.shared.isolation import copied
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.simulation.chain import Block, BlockChain, States
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.quantization import ActivationQuantizer

METHOD = "+block"
"""Suffix of a technique's name in reports."""


@dataclass(frozen=True)
class ReconstructSettings:
    """Settings for block reconstruction.

    Attributes:
        steps: steps of Adam per block.
        batch_size: images per step.
        rate: learning rate of the rounding variables, AdaRound's logits.
        scale_rate: learning rate of scales (logarithms) and biases.
        pressure: weight of the term that drives the rounding variables to 0 and 1, relative to an initial loss of 1.
        exponents: first and last exponent of that term (AdaRound's beta).
        warmup: fraction of the steps without that term.
        drop: fraction of input elements left in float.
    """

    steps: int = 80
    batch_size: int = 16
    rate: float = 1e-2
    scale_rate: float = 1e-4
    pressure: float = 0.02
    exponents: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2
    drop: float = 0.5


def reconstruct(
    live: LiveModel,
    chain: BlockChain,
    roundings: Mapping[str, Rounding],
    inputs: Mapping[str, ActivationQuantizer],
    fit: Images,
    held_out: Images,
    settings: ReconstructSettings,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
    kept: Kept = NOT_KEPT,
) -> tuple[dict[str, Rounding], dict[str, ActivationQuantizer]]:
    """Learn the rounding of every block and keep it if it lowers the held-out KL; ``live`` has the result afterwards.

    Args:
        live: the model with every layer of ``roundings`` quantized.
        chain: its blocks.
        roundings: layer -> rounding to start from.
        inputs: layer -> quantizer of its input.
        fit: images that blocks are trained on.
        held_out: images that decide what is kept.
        settings: how blocks are trained.
        seed: seed of batches, drops and sampled labels.
        progress: called with the number of blocks done.
        kept: blocks that an earlier run finished.

    Returns:
        Roundings and input quantizers by layer.
    """
    size = settings.batch_size
    likelihood = likelihood_of(chain.model)
    fit_batches = [batch for batch, _ in tensors(fit, live.device, batch_size=size)]
    held_batches = [batch for batch, _ in tensors(held_out, live.device, batch_size=size)]
    generator = torch.Generator().manual_seed(seed)
    found, quantizers = dict(roundings), dict(inputs)
    with live.in_float():
        true_states = chain.states(fit_batches)
        reference = chain.logits(chain.states(held_batches))
    states, held_states = chain.states(fit_batches), chain.states(held_batches)
    # Everything after the block stays quantized: that is the model which the block will be part of.
    losses = likelihood.distance(chain.logits(held_states), reference)
    for index, block in enumerate(chain.blocks):
        members = [layer.name for layer in block.layers if layer.name in roundings]
        with live.in_float():
            targets, gradients = _outputs_and_gradients(chain, true_states, block, generator)
            if index + 1 < len(chain):
                true_states = chain.advance(true_states)
        if members:
            train = partial(
                _train, live, block, members, found, quantizers, states, targets, gradients, settings, generator
            )
            layers, state = kept.get(f"block {index}", train, part=True)
            generator.set_state(state)
            for name in members:
                _set(live, name, layers[name])
            after = likelihood.distance(chain.logits(held_states), reference)
            if clearly_lower(after, losses):
                losses = after
                for name in members:
                    found[name] = _as_rounding(found[name], layers[name], float(after.mean()))
                    if (quantizer := layers[name].input) is not None:
                        quantizers[name] = quantizer
            else:
                for name in members:
                    live.set_weight(name, found[name].weight)
                    live.set_input(name, quantizers.get(name))
        if index + 1 < len(chain):
            states, held_states = chain.advance(states), chain.advance(held_states)
        if progress is not None:
            progress(index + 1)
    return found, quantizers


def _outputs_and_gradients(
    chain: BlockChain, states: States, block: Block, generator: torch.Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Float outputs of one block, and the gradient of a sampled label's negative log-likelihood in them."""
    likelihood = likelihood_of(chain.model)
    outputs: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []

    def start(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        output = output.detach().requires_grad_()
        outputs.append(output)
        return output

    handle = block.module.register_forward_hook(start)
    try:
        for arguments, size in states:
            with torch.enable_grad():
                logits = chain.resume(states.start, arguments, size)
                loss = likelihood.nll(logits, likelihood.sample(logits, generator))
                gradients.extend(torch.autograd.grad(loss, [outputs[-1]]))
    finally:
        handle.remove()
    return [output.detach() for output in outputs], gradients


def _train(
    live: LiveModel,
    block: Block,
    members: list[str],
    roundings: Mapping[str, Rounding],
    inputs: Mapping[str, ActivationQuantizer],
    states: States,
    targets: list[torch.Tensor],
    gradients: list[torch.Tensor],
    settings: ReconstructSettings,
    generator: torch.Generator,
) -> tuple[dict[str, Trained], torch.Tensor]:
    """Train one block; returns its layers and the state of the generator afterwards."""
    drops = torch.Generator(device=live.device).manual_seed(int(torch.randint(2**31, (), generator=generator)))
    layers = {
        name: TrainableLayer(
            live.layers[name].module, roundings[name], live.bias(name), inputs.get(name), kind="adaround",
            drop=settings.drop, generator=drops,
        )
        for name in members
    }  # fmt: skip
    rounding = [layer.real for layer in layers.values()]
    others = [p for layer in layers.values() for n, p in layer.named_parameters() if n not in ("real", "zero")]
    optimizer = torch.optim.Adam(
        [{"params": rounding, "lr": settings.rate}, {"params": others, "lr": settings.scale_rate}]
    )
    first: float | None = None
    with trained(live, layers):
        for step in range(settings.steps):
            batch = int(torch.randint(len(targets), (), generator=generator))
            with torch.enable_grad():
                output = block.module(*copied(states.batches[batch]))
                change = (output - targets[batch]).flatten(1) * gradients[batch].flatten(1)
                loss = (change.square().sum(1) + change.sum(1).square()).mean()
                first = first or max(float(loss.detach()), torch.finfo(torch.float32).tiny)
                total = loss / first + settings.pressure * _indecision(rounding, layers, step, settings)
                optimizer.zero_grad()
                total.backward()
            optimizer.step()
    return {name: layer.eval().result() for name, layer in layers.items()}, generator.get_state()


def _indecision(
    rounding: list[torch.nn.Parameter],
    layers: Mapping[str, TrainableLayer],
    step: int,
    settings: ReconstructSettings,
) -> torch.Tensor:
    """AdaRound's regularizer, averaged: 1 for a weight midway between its levels, 0 for one that has decided."""
    done = step / settings.steps
    if done < settings.warmup:
        return torch.zeros((), device=rounding[0].device)
    progress = (done - settings.warmup) / (1 - settings.warmup)
    exponent = settings.exponents[0] + (settings.exponents[1] - settings.exponents[0]) * progress
    terms = [(1 - (2 * layer.shares() - 1).abs().pow(exponent)).mean() for layer in layers.values()]
    return torch.stack(terms).mean()


def _as_rounding(before: Rounding, layer: Trained, loss: float) -> Rounding:
    method = before.method + METHOD
    return replace(
        before, weight=layer.weight, method=method, latent=layer.latent, losses={**before.losses, method: loss}
    )


def _set(live: LiveModel, name: str, layer: Trained) -> None:
    live.set_weight(name, layer.weight)
    live.set_input(name, layer.input)
