"""Applies scales and shifts of input channels to the float model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.shared.factor import ChannelFactor
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.parameters import frozen


@dataclass(frozen=True)
class Equalization:
    """Scale and shift for the input channels of one link.

    The layers that read the link get (x - shift) / scale instead of x. Their weights and biases are changed so that the
    model's function stays the same.

    Attributes:
        link: the place in the model.
        scale: float32 (channels,), positive.
        shift: float32 (channels,); zero if the link cannot move constants.
    """

    link: Link
    scale: torch.Tensor
    shift: torch.Tensor


def apply(equalization: Equalization) -> None:
    """Change the float model permanently; its function stays the same up to float rounding."""
    link = equalization.link
    weight = link.readers[0].module.weight
    scale, shift = equalization.scale.to(weight), equalization.shift.to(weight)
    for layer in link.readers:
        _read_scaled(layer, scale, shift)
    if link.norm is not None:
        _divide_rows(link.norm, scale, shift, slice(None))
    elif link.source is not None:
        _divide_rows(link.source.module, scale, shift, slice(link.start, link.start + link.channels))
    else:
        link.readers[0].module.register_forward_pre_hook(ChannelFactor(1 / scale))


@contextmanager
def applied(equalization: Equalization) -> Iterator[None]:
    """Apply an equalization temporarily; restore the model on exit."""
    link = equalization.link
    touched = link.modules
    before = [(module, dict(module._parameters)) for module in touched]
    hooks = [(module, dict(module._forward_pre_hooks)) for module in touched]
    try:
        apply(equalization)
        yield
    finally:
        for module, parameters in before:
            module._parameters.update(parameters)
        for module, kept in hooks:
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(kept)


def _read_scaled(layer: ModelLayer, scale: torch.Tensor, shift: torch.Tensor) -> None:
    module = layer.module
    weight = module.weight.data.double()
    if module.bias is not None and bool(shift.any()):
        module.bias = frozen((module.bias.data.double() + weight @ shift.double()).to(module.weight.dtype))
    module.weight = frozen((weight * scale.double()).to(module.weight.dtype))


def _divide_rows(module: torch.nn.Module, scale: torch.Tensor, shift: torch.Tensor, rows: slice) -> None:
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None
    changed = weight.data.clone()
    changed[rows] /= scale.reshape(-1, *[1] * (changed.dim() - 1))
    module.weight = frozen(changed)
    if bias is not None:
        moved = bias.data.clone()
        moved[rows] = (moved[rows] - shift) / scale
        module.bias = frozen(moved)
