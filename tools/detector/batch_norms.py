"""Batch norms that learn in training, where the model of transformers has frozen ones."""

from __future__ import annotations

from typing import Any

from torch import nn

EPSILON = 1e-5
"""The constant of DETR's frozen batch norms."""


def thaw(network: nn.Module) -> None:
    """Replace frozen batch norms by learning ones, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("FrozenBatchNorm2d"):
                setattr(parent, name, nn.BatchNorm2d(child.weight.numel(), eps=EPSILON))


def as_stored(network: Any) -> Any:
    """A network of the same class and configuration as transformers makes it, with weights as float16 stores them."""
    fresh = type(network)(network.config).to(next(network.parameters()).device)
    state = network.state_dict()
    fresh.load_state_dict({key: state[key] for key in fresh.state_dict()})
    return fresh.half().float().eval()
