"""Passes over images that look at the inputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lampq_onnx.frontend.shared.batching import Images, device_of, tensors
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.running.processes import ALONE, Group

Visitor = Callable[[ModelLayer, torch.Tensor], None]


@torch.no_grad()
def visit_inputs(
    model: torch.nn.Module, layers: Sequence[ModelLayer], images: Images, visit: Visitor, *, group: Group = ALONE
) -> None:
    """Call ``visit`` with every layer and its input tensor, batch by batch.

    Each process sees its share of the images.
    """

    def hook(layer: ModelLayer) -> Any:
        return lambda _, inputs: visit(layer, inputs[0])

    handles = [layer.module.register_forward_pre_hook(hook(layer)) for layer in layers]
    try:
        for batch, _ in tensors(images, device_of(model), group=group):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
