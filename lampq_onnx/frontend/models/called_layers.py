"""Selects the layers that can be measured: their modules compute them, once per pass, from the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.recompute import recomputed

SAME = 1e-4
"""Largest relative difference (L2) between two ways to compute a layer that float rounding explains."""


def called(
    layers: tuple[ModelLayer, ...], skipped: dict[str, str], module: torch.nn.Module, example: torch.Tensor
) -> tuple[ModelLayer, ...]:
    """Keep layers whose module is called and computes only the product with its weight.

    Some models read the weight of a Linear without calling it. Some layers add more to the product (LoRA, hooks). Hooks
    on such a module would measure and simulate another function than the graph computes.

    Args:
        layers: layers found in the graph.
        skipped: layer -> reason; gets the layers that are left out.
        module: the model.
        example: float32 (n, c, h, w), at least two images.
    """
    calls: dict[str, list[int]] = {layer.name: [] for layer in layers}
    sizes: dict[str, list[int]] = {layer.name: [] for layer in layers}
    named: set[str] = set()
    more: set[str] = set()

    def look(layer: ModelLayer) -> Callable[..., None]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not inputs:
                named.add(layer.name)
                return
            calls[layer.name].append(inputs[0].shape[0])
            sizes[layer.name].append(inputs[0].numel())
            plain = product(layer.module, inputs[0])
            if output.shape != plain.shape or not (output - plain).norm() <= SAME * plain.norm().clamp_min(1e-6):
                more.add(layer.name)

        return hook

    handles = [layer.module.register_forward_hook(look(layer)) for layer in layers]
    try:
        with torch.no_grad():
            for batch in (example[:1], example):
                module(batch)
    finally:
        for handle in handles:
            handle.remove()
    kept = []
    for layer in layers:
        rows = calls[layer.name]
        if layer.name in named:
            skipped[layer.name] = "its module is called with its input by keyword, which hooks do not see"
        elif len(rows) != 2:
            skipped[layer.name] = f"its module is called {len(rows) // 2} times in a forward pass, not once"
        elif rows[1] != len(example) * rows[0] and sizes[layer.name][1] == len(example) * sizes[layer.name][0]:
            skipped[layer.name] = "the images are not along the first axis of its input"
        elif rows[1] != len(example) * rows[0]:
            skipped[layer.name] = "its input does not depend on the images (it is the same for every batch size)"
        elif layer.name in more:
            skipped[layer.name] = "its module computes more than the product with its weight"
        else:
            kept.append(layer)
    return tuple(kept)


def product(layer: torch.nn.Linear | torch.nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """The output of a layer computed from its weight and bias alone."""
    if isinstance(layer, torch.nn.Conv2d):
        convolved: torch.Tensor = torch.nn.Conv2d._conv_forward(layer, inputs, layer.weight, layer.bias)
        return convolved
    return functional.linear(inputs, layer.weight, layer.bias)


def differentiable(
    layers: tuple[ModelLayer, ...], skipped: dict[str, str], module: torch.nn.Module, name: str, example: torch.Tensor
) -> tuple[ModelLayer, ...]:
    """Keep layers that the outputs depend on smoothly.

    Other layers only select (the proposals of RT-DETR), or nothing reads them.

    Args:
        layers: layers found in the graph.
        skipped: layer -> reason; gets the layers that are left out.
        module: the model.
        name: name of the model, for messages.
        example: float32 (n, c, h, w).

    Raises:
        LampqError: the outputs have no gradient at all, or it cannot be computed.
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(key: str, output: torch.Tensor) -> torch.Tensor:
        outputs[key] = output if output.requires_grad else output.detach().requires_grad_()
        return outputs[key]

    handles = [
        layer.module.register_forward_hook(lambda _, __, output, key=layer.name: keep(key, output)) for layer in layers
    ]
    try:
        with recomputed(module, layers, example), torch.enable_grad():
            answer = module(example[:1])
            gradients = _gradients(answer, list(outputs.values()), name)
    finally:
        for handle in handles:
            handle.remove()
    reached = dict(zip(outputs, gradients, strict=True))
    for key, gradient in reached.items():
        if gradient is None:
            skipped[key] = "no gradient of the outputs reaches it, so its sensitivity cannot be measured"
    return tuple(layer for layer in layers if reached[layer.name] is not None)


def _gradients(answer: torch.Tensor, outputs: Sequence[torch.Tensor], name: str) -> Sequence[torch.Tensor | None]:
    hint = "its forward must be differentiable: without torch.no_grad, detach, or functions that have no backward"
    if not answer.requires_grad:
        raise LampqError(f"the outputs of {name} have no gradient, but sensitivities are measured with it", hint=hint)
    try:
        return torch.autograd.grad(answer.sum(), outputs, allow_unused=True)
    except Exception as error:  # the model's own backward functions can raise anything
        if is_out_of_memory(error):
            raise
        raise LampqError(
            f"the gradient of the outputs of {name} cannot be computed: {first_line(error)}", hint=hint
        ) from error
