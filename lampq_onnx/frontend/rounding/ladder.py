"""Chooses the rounding of each layer, one layer after the other, by the KL of the whole model to float.

Blocks are processed in order. A layer is rounded on the inputs from the quantized layers before it (sequential GPTQ),
with several techniques. Each technique is judged by the KL of the whole model on images that the rounding has not seen,
with everything after the layer in float. The error of the layer itself is not a good judge: on models with massive
activations it falls while the model's accuracy collapses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.rounding.contest import Entrant, wins
from lampq_onnx.frontend.rounding.moments import LayerMoments, float_output_means, layer_moments
from lampq_onnx.frontend.shared.batching import Images, tensors
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.chain import BlockChain, States
from lampq_onnx.frontend.simulation.gptq import DAMPING, gptq_quantize
from lampq_onnx.frontend.simulation.levels import dequantized, nearest
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.measures.evidence import LEAST_SEEN
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight, WeightGrid
from lampq_onnx.running.memory import give_back

WIDE_DAMPING = 0.1
"""Damping that is tried besides GPTQ's own if time allows; the result stays closer to nearest rounding."""

BIAS = "+bias"
"""Suffix of a technique's name if the bias corrects the mean error of the output."""


@dataclass(frozen=True)
class Rounding:
    """The rounding of one layer.

    Attributes:
        weight: codes, scales, and the bias if it was corrected.
        method: the technique that was chosen.
        latent: float32 (outputs, inputs), real weights whose nearest rounding is ``weight``; None if nothing is trained
            afterwards.
        losses: technique -> KL on held-out images, on the first of them where those decided.
    """

    weight: QuantizedWeight
    method: str
    latent: torch.Tensor | None
    losses: Mapping[str, float]


@dataclass(frozen=True)
class LadderSettings:
    """Settings of layer-by-layer rounding.

    Attributes:
        dampings: dampings of GPTQ that are tried.
        bias_correction: whether the bias may be corrected.
        latent: whether the real weights behind the rounding are kept, for training.
        batch_size: images per forward pass.
        compared: held-out images per forward pass; after each, a technique without a chance is given up.
    """

    dampings: Sequence[float] = (DAMPING,)
    bias_correction: bool = True
    latent: bool = True
    batch_size: int = 16
    compared: int = LEAST_SEEN  # fewer decide nothing


def climb(
    live: LiveModel,
    chain: BlockChain,
    grids: Mapping[str, WeightGrid],
    inputs: Mapping[str, ActivationQuantizer],
    fit: Images,
    held_out: Images,
    settings: LadderSettings,
    *,
    progress: Callable[[int], None] | None = None,
    kept: Kept = NOT_KEPT,
) -> dict[str, Rounding]:
    """Round every layer of ``grids``; ``live`` is the quantized model afterwards.

    Args:
        live: the model in float.
        chain: its blocks.
        grids: layer -> grid of its planned bit-width; other layers stay in float.
        inputs: layer -> quantizer of its input, if it has one.
        fit: images that the rounding is computed from.
        held_out: images that the techniques are judged on.
        settings: what is tried.
        progress: called with the number of layers done.
        kept: layers that an earlier run finished.
    """
    fit_batches = [batch for batch, _ in tensors(fit, live.device, batch_size=settings.batch_size)]
    held_batches = [batch for batch, _ in tensors(held_out, live.device, batch_size=settings.compared)]
    true_states = chain.states(fit_batches)
    reference = chain.logits(chain.states(held_batches))
    found: dict[str, Rounding] = {}
    for layer in chain.before:
        _round_nearest(live, layer, grids, inputs, found)
    states, held_states = chain.states(fit_batches), chain.states(held_batches)
    for index, block in enumerate(chain.blocks):
        planned = [layer for layer in block.layers if layer.name in grids]
        # The block's layers are still in float, and so are their inputs.
        means, true_states = float_output_means(chain, true_states)
        for layer in planned:
            live.set_input(layer.name, inputs.get(layer.name))
            moments = layer_moments(chain, states, layer, means[layer.name], inputs.get(layer.name))
            found[layer.name] = kept.get(
                f"rounding of {layer.name}",
                partial(
                    _best, live, layer, grids[layer.name], moments, settings,
                    partial(_losses, chain, held_states, reference), list(held_states.sizes),
                ),
                part=True,
            )  # fmt: skip
            live.set_weight(layer.name, found[layer.name].weight)
            if progress is not None:
                progress(len(found))
        if index + 1 < len(chain):
            states, held_states = chain.advance(states), chain.advance(held_states)
        give_back()  # moments and states of a block lie between the weights that stay
    for layer in chain.after:
        _round_nearest(live, layer, grids, inputs, found)
    return found


def techniques(roundings: Mapping[str, Rounding]) -> dict[str, int]:
    """Technique -> number of layers that it was chosen for."""
    return dict(Counter(rounding.method for rounding in roundings.values()))


def _losses(chain: BlockChain, states: States, reference: torch.Tensor) -> Iterator[torch.Tensor]:
    """KL of each image to the float model, batch by batch."""
    likelihood = likelihood_of(chain.model)
    start = 0
    for outputs in chain.outputs(states):
        yield likelihood.distance(outputs, reference[start : start + len(outputs)])
        start += len(outputs)


def _round_nearest(
    live: LiveModel,
    layer: ModelLayer,
    grids: Mapping[str, WeightGrid],
    inputs: Mapping[str, ActivationQuantizer],
    found: dict[str, Rounding],
) -> None:
    """Round a layer outside the blocks to nearest: it has 8 bits, where other techniques gain nothing."""
    if layer.name not in grids:
        return
    weight = live.weight(layer.name)
    rounded = nearest(grids[layer.name], weight)
    found[layer.name] = Rounding(rounded, "nearest", weight.float(), {})
    live.set_weight(layer.name, rounded)
    live.set_input(layer.name, inputs.get(layer.name))


def _best(
    live: LiveModel,
    layer: ModelLayer,
    grid: WeightGrid,
    moments: LayerMoments,
    settings: LadderSettings,
    losses: Callable[[], Iterator[torch.Tensor]],
    sizes: list[int],
) -> Rounding:
    """The first technique that no later one clearly improves on."""
    weight = live.weight(layer.name).float()
    use = partial(live.set_weight, layer.name)
    entrants: list[Entrant] = []
    for damping in settings.dampings if isinstance(layer.module, torch.nn.Linear) else ():
        result = gptq_quantize(weight, [grid], moments.hessian, damping=damping, latent=settings.latent)[0]
        entrants.append(Entrant(f"gptq-{damping:g}", result.weight, result.latent, losses))
    entrants.append(Entrant("nearest", nearest(grid, weight), weight if settings.latent else None, losses))
    best = entrants[0]
    for other in entrants[1:]:
        if wins(other, best, sizes, use):
            best = other
    if settings.bias_correction and live.bias(layer.name) is not None:
        corrected = replace(best.weight, bias=_corrected_bias(best.weight, moments, weight))
        entrants.append(Entrant(best.name + BIAS, corrected, best.latent, losses))
        if wins(entrants[-1], best, sizes, use):
            best = entrants[-1]
    seen = {entrant.name: float(entrant.seen.mean()) for entrant in entrants if len(entrant.seen)}
    return Rounding(best.weight, best.name, best.latent, seen)


def _corrected_bias(rounded: QuantizedWeight, moments: LayerMoments, like: torch.Tensor) -> npt.NDArray[np.float32]:
    """The bias with which the quantized layer has the same mean output as the float layer."""
    levels = dequantized(rounded, like)
    bias: npt.NDArray[np.float32] = (moments.output_mean - levels @ moments.input_mean).float().cpu().numpy()
    return bias
