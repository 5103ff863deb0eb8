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
from lampq_onnx.frontend.shared.batching import BATCH
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.running.processes import ALONE, Group, summed

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

    def __init__(self, likelihood: Likelihood, seed: int, group: Group, batch_size: int) -> None:
        self._likelihood = likelihood
        self._generator = torch.Generator().manual_seed(seed)
        self._foreign = group.rank
        self._between = group.size - 1
        self._batch_size = batch_size

    def draw(self, outputs: torch.Tensor) -> Any:
        """Draw targets for the next batch of this process."""
        blank = torch.zeros(self._batch_size, *outputs.shape[1:])
        for _ in range(self._foreign):
            self._likelihood.sample(blank, self._generator)
        self._foreign = self._between
        return self._likelihood.sample(outputs, self._generator)


GradientVisitor = Callable[[int, ModelLayer, torch.Tensor, torch.Tensor], None]
"""Called with (number of images in the batch, layer, its input, gradient of its output)."""


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
    """Run one forward and one backward pass of -log p(y|x) per batch.

    Args:
        model: in evaluation mode with frozen parameters.
        layers: layers to visit.
        batches: images float32 (n, c, h, w) and labels int64 (n,), or None to sample labels from the model; each
            process passes its share, see `tensors`.
        visit: called for every layer as soon as its gradient is known.
        seed: seed of the sampled labels.
        group: the processes.
        batch_size: images in every batch except the last; only matters with several processes.
        progress: called with the number of images done.

    Returns:
        The number of images of this process.
    """
    likelihood = likelihood_of(model)
    sampler = _Sampler(likelihood, seed, group, batch_size)
    total = 0
    for images, labels in batches:
        with GradientTap(layers, partial(visit, len(images))), torch.enable_grad():
            logits = model(images)
            targets = sampler.draw(logits) if labels is None else labels
            likelihood.nll(logits, targets).backward()  # type: ignore[no-untyped-call]
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
