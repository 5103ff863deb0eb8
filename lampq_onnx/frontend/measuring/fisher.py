"""Fisher traces of all layers, in one forward and one backward pass per batch.

tr(F_i) = E_x E_{y ~ p(y|x)} |d log p(y|x) / d W_i|^2, one gradient per sample (paper, section on the Fisher metric).
For y = x W^T over T tokens the gradient of one sample is G^T X, and its squared norm is

    |G^T X|^2 = sum_{t,t'} (g_t . g_t') (x_t . x_t') = sum((X X^T) * (G G^T)),

so it can be computed from T x T products or from the d_out x d_in product; the cheaper one is used for each shape.
Autograd never computes gradients of weights, so the backward pass is cheaper than a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.likelihoods import Likelihood, likelihood_of
from lampq_onnx.frontend.shared.batching import BATCH, pass_images
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.recompute import recomputed
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.running.processes import ALONE, Group, summed

TAPE_BYTES = 120 * 10**6
"""Bytes of the layers' inputs and outputs that one backward pass may hold on a CPU."""

SCRATCH_ELEMENTS = 2**22
"""Largest number of elements of per-sample products held at once (16 MB)."""


def squared_gradient_norms(inputs: torch.Tensor, grads: torch.Tensor) -> torch.Tensor:
    """|G_n^T X_n|_F^2 for each sample.

    Args:
        inputs: X, (n, tokens, d_in).
        grads: G, (n, tokens, d_out).

    Returns:
        (n,) in the inputs' dtype.
    """
    count, tokens, d_in = inputs.shape
    d_out = grads.shape[2]
    gram = tokens * (d_in + d_out) <= d_in * d_out
    size = tokens * tokens if gram else d_in * d_out
    step = max(1, SCRATCH_ELEMENTS // size)
    norms = []
    for start in range(0, count, step):
        x, g = inputs[start : start + step], grads[start : start + step]
        if gram:
            norms.append((x @ x.mT).mul_(g @ g.mT).sum((1, 2)))
        else:
            norms.append((g.mT @ x).square_().sum((1, 2)))
    return torch.cat(norms)


class GradientTap:
    """Context manager that passes each layer's input and output gradient to a callback during one backward pass.

    Args:
        layers: layers to tap.
        visit: called with (layer, input, gradient of the output) as soon as the gradient is known.
    """

    def __init__(
        self, layers: Sequence[ModelLayer], visit: Callable[[ModelLayer, torch.Tensor, torch.Tensor], None]
    ) -> None:
        self._layers = layers
        self._visit = visit
        self._handles: list[Any] = []

    def __enter__(self) -> GradientTap:
        """Install the hooks on all layers."""
        for layer in self._layers:
            self._handles.append(layer.module.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks from all layers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(
        self, layer: ModelLayer
    ) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if not output.requires_grad:
                # Parameters are frozen, so the autograd graph starts at the first layer.
                output = output.detach().requires_grad_()
            kept = inputs[0].detach()
            output.register_hook(lambda grad: self._visit(layer, kept, grad))  # type: ignore[no-untyped-call]
            return output

        return hook


class _Sampler:
    """Draws answers in the order of all batches of all processes, so that an image gets the same one in any process.

    Batches of other processes are drawn as well and discarded, because the numbers that a draw takes from the generator
    depend only on the shape. All batches have the same size; only the very last one may be smaller, and nothing is
    drawn after it.
    """

    def __init__(self, likelihood: Likelihood, seed: int, group: Group, batch_size: int, piece: int) -> None:
        self._likelihood = likelihood
        self._generator = torch.Generator().manual_seed(seed)
        self._foreign = group.rank
        self._between = group.size - 1
        self._sizes = [min(piece, batch_size - start) for start in range(0, batch_size, piece)]

    def skip(self, outputs: torch.Tensor) -> None:
        """Draw for the batches of other processes before the next batch of this process."""
        for size in self._sizes * self._foreign:
            self._likelihood.sample(torch.zeros(size, *outputs.shape[1:]), self._generator)
        self._foreign = self._between

    def draw(self, outputs: torch.Tensor) -> Any:
        """Draw targets for the next images of this process."""
        return self._likelihood.sample(outputs, self._generator)


GradientVisitor = Callable[[int, ModelLayer, torch.Tensor, torch.Tensor], None]
"""Called with (number of images in the batch, layer, its input, gradient of its output)."""


@torch.no_grad()
def piece_of(model: torch.nn.Module, layers: Sequence[ModelLayer], images: torch.Tensor, *, outputs: int = 1) -> int:
    """Images for which a backward pass holds about `TAPE_BYTES` of activations; on a GPU those of a forward pass.

    Args:
        model: the model.
        layers: layers whose inputs and outputs stand for everything that is held.
        images: one batch.
        outputs: how many tensors of the size of each output are held: itself, and gradients that are kept for later.
    """
    if images.is_cuda or len(images) == 1:
        return pass_images(images.shape, len(images))
    elements = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal elements
        elements += inputs[0].numel() + outputs * output.numel()

    handles = [layer.module.register_forward_hook(count) for layer in layers]
    try:
        model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return max(1, min(len(images), TAPE_BYTES // (4 * max(elements, 1))))


def visit_gradients(
    model: torch.nn.Module,
    layers: Sequence[ModelLayer],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
    visit: GradientVisitor,
    *,
    seed: int,
    group: Group = ALONE,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Run one forward and one backward pass of -log p(y|x) per batch, or per piece of a batch if memory asks for it.

    Args:
        model: in evaluation mode with frozen parameters.
        layers: layers to visit.
        batches: images float32 (n, c, h, w) and labels int64 (n,), or None to sample labels from the model; each
            process passes its share, see `tensors`.
        visit: called for every layer as soon as its gradient is known, once for each piece of a batch.
        seed: seed of the sampled labels; the same ones are drawn whatever the pieces are.
        group: the processes.
        batch_size: images in every batch except the last; only matters with several processes.
        progress: called with the number of images done.

    Returns:
        The number of images of this process.
    """
    likelihood = likelihood_of(model)
    sampler: _Sampler | None = None
    piece = total = 0
    for images, labels in batches:
        if sampler is None:
            piece = piece_of(model, layers, images)
            sampler = _Sampler(likelihood, seed, group, batch_size, piece)
        for start in range(0, len(images), piece):
            part = images[start : start + piece]
            with recomputed(model, layers, part), GradientTap(layers, partial(visit, len(part))), torch.enable_grad():
                logits = model(part)
                if labels is None and start == 0:
                    sampler.skip(logits)
                targets = sampler.draw(logits) if labels is None else labels[start : start + piece]
                likelihood.nll(logits, targets).backward()  # type: ignore[no-untyped-call]
            del logits
        total += len(images)
        if progress is not None:
            progress(total)
    return total


def fisher_traces(
    model: torch.nn.Module,
    layers: Sequence[ModelLayer],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
    *,
    seed: int = 0,
    group: Group = ALONE,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """tr(F_i) of every layer.

    Args:
        model: in evaluation mode with frozen parameters; returns logits (n, classes).
        layers: its layers.
        batches: images float32 (n, c, h, w) and labels int64 (n,), or None to sample labels from the model (the true
            Fisher).
        seed: seed of the sampled labels.
        group: processes that share the batches.
        batch_size: see `visit_gradients`.
        progress: called with the number of images done.

    Returns:
        Layer -> mean over images of the squared gradient norm of -log p(y|x).

    Raises:
        LampqError: there are no images, or a gradient is not finite.
    """
    sums = {layer.name: 0.0 for layer in layers}

    def visit(samples: int, layer: ModelLayer, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        tokens = as_tokens(layer.module, inputs, samples)
        norms = squared_gradient_norms(tokens, grads_as_tokens(layer.module, grads, samples))
        sums[layer.name] += float(norms.double().sum())

    own = visit_gradients(
        model, layers, batches, visit, seed=seed, group=group, batch_size=batch_size, progress=progress
    )
    total = summed({"images": own}, group)["images"]
    if total == 0:
        raise LampqError("no calibration images")
    traces = {name: value / total for name, value in summed(sums, group).items()}
    bad = [name for name, value in traces.items() if not torch.isfinite(torch.tensor(value))]
    if bad:
        raise LampqError(f"the Fisher trace of layer {bad[0]} is not finite")
    return traces
