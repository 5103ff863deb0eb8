"""Predicts the expected loss of equalized layers in closed form, without rounding or computing them.

Rounding is taken as noise that is independent of the values: an input step s adds s^2 / 12 to every input, and a row of
the weights has its own mean squared error. With g the gradient of an output, W' and x' the equalized weights and
inputs, the expected sum of (g d)^2 over the outputs of one token is

    sum_o g_o^2 (|W'_o|^2 s^2 / 12 + e_o |x'|^2),

which takes a few products with vectors where the search computes the whole layer for every option.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.shared.batching import Images, device_of, unlabelled
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.grids import fit_weight_grids

SAMPLED_ROWS = 64
"""Rows of a weight on which the error of rounding is measured, in multiples of the row's power."""


@dataclass(frozen=True)
class Moved:
    """One way to equalize a link.

    Attributes:
        scale: float32 (channels,).
        shift: float32 (channels,).
        step: step of the input's quantizer; 0: the input stays in float.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    step: float


@dataclass(frozen=True)
class _Terms:
    """The options of one layer side by side.

    Attributes:
        inverse: 1 / scale^2, (channels, options).
        shifts: distinct shifts, each (channels,), and the options that have it.
        noise: |W'_o|^2 s^2 / 12, (outputs, options).
        rows: mean squared error of each row of W', (outputs, options).
    """

    inverse: torch.Tensor
    shifts: list[tuple[torch.Tensor, list[int]]]
    noise: torch.Tensor
    rows: torch.Tensor


def predicted_errors(
    model: torch.nn.Module,
    options: Mapping[Link, Sequence[Moved]],
    images: Images,
    *,
    weight_bits: int,
    seed: int,
    block: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Link, torch.Tensor]:
    """Predict the expected loss of every option on every image, float64 (options, images) for each link.

    Args:
        model: the float model.
        options: link -> ways to equalize it.
        images: images of the gradients.
        weight_bits: bit-width of the weights.
        seed: seed of the sampled labels.
        block: inputs that share a scale, see `Target.block`.
        progress: called with the number of images done.
    """
    terms = {
        layer.name: _terms(layer, own, weight_bits, block) for link, own in options.items() for layer in link.readers
    }
    by_layer = {layer.name: link for link in options for layer in link.readers}
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in terms}

    @torch.no_grad()
    def measure(samples: int, layer: ModelLayer, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        own = terms[layer.name]
        values = as_tokens(layer.module, inputs)
        power = values.new_empty(*values.shape[:-1], own.inverse.shape[1])
        for shift, columns in own.shifts:
            power[..., columns] = (values - shift).square_() @ own.inverse[:, columns]
        weights = grads_as_tokens(layer.module, grads).square()
        loss = (weights @ own.noise).add_((weights @ own.rows).mul_(power))
        parts[layer.name].append(loss.reshape(samples, -1, loss.shape[-1]).sum(1).double().T.cpu())

    layers = [layer for link in options for layer in link.readers]
    visit_gradients(model, layers, unlabelled(images, device_of(model)), measure, seed=seed, progress=progress)
    found: dict[Link, torch.Tensor] = {}
    for name, own in parts.items():
        link, errors = by_layer[name], torch.cat(own, 1)
        found[link] = found[link] + errors if link in found else errors
    return found


def _terms(layer: ModelLayer, options: Sequence[Moved], weight_bits: int, block: int | None) -> _Terms:
    weight = layer.module.weight.detach().float()
    noise, rows = [], []
    for option in options:
        moved = weight * option.scale
        power = moved.square().sum(1)
        noise.append(power * (option.step**2 / 12))
        rows.append(power / weight.shape[1] * _share(moved, weight_bits, block))
    shifts: list[tuple[torch.Tensor, list[int]]] = []
    for index, option in enumerate(options):
        known = next((columns for shift, columns in shifts if torch.equal(shift, option.shift)), None)
        if known is None:
            shifts.append((option.shift, [index]))
        else:
            known.append(index)
    inverse = torch.stack([option.scale.double().square().reciprocal().float() for option in options], 1)
    return _Terms(inverse, shifts, torch.stack(noise, 1), torch.stack(rows, 1))


def _share(weight: torch.Tensor, bits: int, block: int | None) -> float:
    """Squared error of rounding over the squared weights, on some rows."""
    some = weight[:: max(1, math.ceil(len(weight) / SAMPLED_ROWS))]
    power = float(some.square().sum(dtype=torch.float64))
    return fit_weight_grids(some, (bits,), block=block)[0].error / power if power else 0.0
