"""Gradients of large images: a pass keeps the inputs of the blocks, and computes each block again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lampq_onnx.artifacts.image_size import are_large
from lampq_onnx.frontend.shared.forward import forward_of
from lampq_onnx.frontend.shared.model_layers import ModelLayer

LEAST_LAYERS = 2
"""Layers from which on a module is a block: one product alone has little to compute again."""


@contextmanager
def recomputed(model: torch.nn.Module, layers: Sequence[ModelLayer], images: torch.Tensor) -> Iterator[None]:
    """Let a backward pass inside hold the activations of one block at a time, if the images are large.

    Attention of n tokens holds n^2 numbers per head, and a plain backward pass holds those of all blocks: 3 GB for an
    image of 1024 x 1024 in patches of 16 and four blocks with 12 heads. The gradients are the same to the last bit; the
    price is another forward pass. Other images are passed as they are.

    Args:
        model: the model in evaluation mode.
        layers: its layers, which show its blocks.
        images: float32 (n, c, h, w).
    """
    with ExitStack() as stack:
        for block in blocks_of(model, layers) if are_large(images.shape) else ():
            stack.enter_context(forward_of(block, _again(block.forward)))
        yield


def blocks_of(model: torch.nn.Module, layers: Sequence[ModelLayer]) -> list[torch.nn.Module]:
    """The smallest modules of a list or a sequence that hold several of the layers; there may be none."""
    inside = {layer.module for layer in layers}
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList | torch.nn.Sequential)]
    children = dict.fromkeys(child for group in lists for child in group.children())
    held = [child for child in children if len(inside.intersection(child.modules())) >= LEAST_LAYERS]
    return [child for child in held if not any(other is not child and other in held for other in child.modules())]


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same forward pass, whose activations are computed again on the way back."""

    def again(*arguments: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **keywords)

    return again
