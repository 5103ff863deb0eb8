"""Measures how the cost of a layer is shared by its output channels.

The cost of one channel is the KL that its rounding alone adds, to second order: half of E[(sum_t g_t e_t)^2], where
e_t is the change of the channel's output at token t and g_t the gradient of log p(y|x) in it. Two estimates are made
in the same passes over the images, and their geometric mean is used:

- the squared sum for each image, with the candidate weights of each bit-width: exact, but noisy on few images;
- E[g^2 |x|^2] times the channel's error tr(dw H dw^T), H the token-normalized moments of the inputs: it neglects how
  tokens and gradients go together, and is less noisy.

Each is taken relative to the mean channel of the layer, and averaged over bit-widths as a geometric mean. The result is
shrunk towards equal shares by a power: rare images decide on a part of the differences, and channels that look free in
a linear approximation are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.artifacts.image_size import are_large
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.likelihoods import CLASSES, Likelihood, likelihood_of
from lampq_onnx.frontend.measuring.fisher import GradientTap, piece_of
from lampq_onnx.frontend.shared.batching import Images, device_of, tensors
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.products import gram
from lampq_onnx.frontend.shared.recompute import recomputed
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.running.processes import ALONE, Group, own_items

SHARE_POWER = 0.8
"""Power of the measured shares. KL at 4 bits with .8 and with 1: DeiT-Ti .040 and .045, hard DeiT-Ti .051 and .062."""

SHARE_DRAWS = 2
"""Gradients for each image."""

SHARE_WIDTHS = (2, 3, 4)
"""Bit-widths whose errors are averaged; at more bits the shares are about the same."""

SMALLEST = 1e-4
"""Smallest cost of a channel, relative to the mean channel of its layer."""

DIGITS = 3
"""Significant digits of a share; the noise of the measurement is far larger."""


@dataclass(frozen=True)
class _Held:
    """What one call of a layer read, and the gradients of its output for the draws so far.

    They wait for the last draw, because the changes of the weights are made once for all of them.
    """

    layer: ModelLayer
    inputs: torch.Tensor
    grads: list[torch.Tensor]


class _Sums:
    """Sums over images for one layer, float64 on the CPU.

    Attributes:
        gradients: (outputs,) of g^2 |x|^2.
        changes: (widths, outputs) of (sum_t g_t e_t)^2.
    """

    def __init__(self, outputs: int, widths: int) -> None:
        self.gradients = np.zeros(outputs)
        self.changes = np.zeros((widths, outputs))

    def add(self, held: _Held, size: int, rounder: WeightRounder, widths: Sequence[int]) -> None:
        """Add all draws of ``size`` images."""
        layer = held.layer
        x = as_tokens(layer.module, held.inputs, size)
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        # Made anew each time: the changes of all layers together would take more memory than the model.
        changes = _changes(layer, rounder, widths)
        gradients = [grads_as_tokens(layer.module, grads, size) for grads in held.grads]
        for g in gradients:
            self.gradients += g.square().mul_(lengths).sum((0, 1)).double().cpu().numpy()
        # The changes are read once for all draws of an image: they are larger than any cache.
        inner = [
            torch.einsum("doi,woi->dwo", torch.stack([gram(g[i], x[i]) for g in gradients]), changes)
            for i in range(size)
        ]
        self.changes += torch.stack(inner).double().square_().sum((0, 1)).cpu().numpy()


def _changes(layer: ModelLayer, rounder: WeightRounder, widths: Sequence[int]) -> torch.Tensor:
    """What rounding changes in the weight of a layer, (widths, outputs, inputs)."""
    weight = layer.module.weight.flatten(1)
    changes = torch.empty(len(widths), *weight.shape, dtype=weight.dtype, device=weight.device)
    for place, bits in enumerate(widths):
        torch.sub(rounder.dequantized(layer.name, bits).flatten(1), weight, out=changes[place])
    return changes


def channel_shares(
    model: torch.nn.Module,
    images: Images,
    layers: Sequence[ModelLayer],
    rounder: WeightRounder,
    candidates: Sequence[int],
    *,
    seed: int,
    draws: int = SHARE_DRAWS,
    power: float = SHARE_POWER,
    group: Group = ALONE,
    progress: Callable[[int], None] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Measure the share of every output channel in the cost of its layer.

    Args:
        model: the float model, in evaluation mode with frozen parameters.
        images: calibration images.
        layers: layers to measure.
        rounder: rounded weights.
        candidates: bit-widths that layers may get.
        seed: seed of the gradients.
        draws: gradients for each image.
        power: of the shares; 0 makes all of a layer equal.
        group: processes that share the images.
        progress: called with the number of images done.

    Returns:
        Layer -> positive shares of its output channels that sum to about 1, with `DIGITS` significant digits.

    Raises:
        LampqError: a gradient is not finite.
    """
    widths = [bits for bits in candidates if bits in SHARE_WIDTHS] or [min(candidates)]
    sums = {layer.name: _Sums(layer.module.weight.shape[0], len(widths)) for layer in layers}
    for layer in layers:  # before any hook is on the model
        rounder.quantized(layer.name, widths[0])
    likelihood = likelihood_of(model)
    size, together = 0, draws
    held: dict[int, _Held] = {}

    def visit(layer: ModelLayer, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        # Calls of one module in a pass differ by their inputs, which the hooks keep until the last draw.
        own = held.setdefault(id(inputs), _Held(layer, inputs, []))
        own.grads.append(grads)
        if len(own.grads) == together:
            sums[layer.name].add(held.pop(id(inputs)), size, rounder, widths)

    done = piece = 0
    for number, batch in own_items(enumerate(b for b, _ in tensors(images, device_of(model))), group):
        piece = piece or piece_of(model, layers, batch, outputs=draws)
        # A generator of its own for every batch, so that an image gets the same gradients in any process.
        generator = torch.Generator().manual_seed(seed + number)
        for start in range(0, len(batch), piece):
            part = batch[start : start + piece]
            size = len(part)
            # All gradients of a large image would take what `recomputed` saves, and those of a whole batch on a GPU as
            # much as the batch; a GPU makes the changes quickly.
            together = 1 if part.is_cuda or are_large(part.shape) else draws
            with recomputed(model, layers, part), GradientTap(layers, visit), torch.enable_grad():
                outputs = model(part)
                for draw in range(draws):
                    noise = score_noise(likelihood, outputs.detach(), generator)
                    torch.autograd.backward(outputs, noise, retain_graph=draw + 1 < draws)
            assert not held, "every draw reaches every call of a layer"
            del outputs
        done += len(batch)
        if progress is not None:
            progress(done)
    return {layer.name: _shares(layer, _summed(sums[layer.name], group), rounder, widths, power) for layer in layers}


def score_noise(likelihood: Likelihood, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random gradient of -log p(y|x) in the outputs, whose second moment is the Fisher information.

    For classes, sampled labels give the gradient p - onehot(y): mostly tiny, and huge for a rare label. sqrt(p) v -
    p (sqrt(p) . v) with random signs v has the same second moment, diag(p) - p p^T, and varies far less.

    Args:
        likelihood: the model's.
        outputs: outputs of the model, (n, ...).
        generator: source of the randomness, on the CPU.
    """
    if likelihood is CLASSES:
        p = outputs.float().softmax(-1)
        signs = (torch.randint(2, p.shape, generator=generator) * 2 - 1).to(p)
        root = p.sqrt() * signs
        return (root - p * root.sum(-1, keepdim=True)).to(outputs)
    own = outputs.clone().requires_grad_()
    with torch.enable_grad():
        loss = likelihood.nll(own, likelihood.sample(outputs, generator))
        gradient: torch.Tensor = torch.autograd.grad(loss, own)[0]
    return gradient


def _summed(own: _Sums, group: Group) -> _Sums:
    if group.size > 1:
        own.gradients, own.changes = group.sum(own.gradients), group.sum(own.changes)
    return own


def _shares(
    layer: ModelLayer, sums: _Sums, rounder: WeightRounder, widths: Sequence[int], power: float
) -> tuple[float, ...]:
    logs = []
    for place, bits in enumerate(widths):
        logs.append(_relative(layer, sums.gradients * rounder.row_errors(layer.name, bits)))
        logs.append(_relative(layer, sums.changes[place]))
    share: npt.NDArray[np.float64] = np.exp(power * np.mean(logs, axis=0))
    return tuple(float(f"{value:.{DIGITS}g}") for value in (share / share.sum()).tolist())


def _relative(layer: ModelLayer, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithms of costs relative to their mean; a channel that costs nothing gets a tiny share."""
    mean = float(costs.mean())
    if not np.isfinite(mean):
        raise LampqError(
            f"the gradients of layer {layer.name} are not finite",
            hint="use --granularity layer, and check that the model has finite outputs on the calibration images",
        )
    if mean <= 0:
        return np.zeros(len(costs))
    found: npt.NDArray[np.float64] = np.log(np.maximum(costs / mean, SMALLEST))
    return found
