"""Turns the weights of layers into separate frozen float32 Parameters that later stages can replace."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lampq_onnx.errors import LampqError


def require_weights(module: torch.nn.Module, name: str) -> None:
    """Refuse a model without parameters, and a model whose lazy layers have no weights yet.

    Raises:
        LampqError: in both cases.
    """
    parameters = dict(module.named_parameters())
    if not parameters:
        raise LampqError(
            f"{name} has no parameters, so there is nothing to quantize",
            hint="only models whose layers hold weights can be quantized",
        )
    lazy = next((key for key, value in parameters.items() if is_lazy(value)), None)
    lazy = lazy or next((key for key, value in module.named_buffers() if is_lazy(value)), None)
    if lazy is not None:
        raise LampqError(
            f"{name} has no weights yet: {lazy} waits for the first input", hint="run the module on a batch first"
        )


@torch.no_grad()
def own_weights(module: torch.nn.Module) -> None:
    """Bring the weights of Linear and Conv2d modules into one form, in place.

    - float64, float16 and bfloat16 become float32, the type that all stages compute in.
    - Weights that are computed in every pass (parametrizations, weight and spectral norm) become fixed at their current
      values.
    - Weights that are buffers or plain attributes, and weights shared by several modules, become separate Parameters of
      each module: the bits of one layer must not change another layer.
    """
    module.float()
    for part in list(module.modules()):
        _keep_computed(part)
    module.requires_grad_(False)
    layers = [part for part in module.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    shared = Counter(id(value) for part in module.modules() for value in part._parameters.values() if value is not None)
    for layer in layers:
        for key in ("weight", "bias"):
            value: Any = getattr(layer, key, None)
            if value is not None and (layer._parameters.get(key) is not value or shared[id(value)] > 1):
                shared[id(value)] -= 1
                _replace(layer, key, value)
            elif value is None and key not in layer._parameters:
                layer.register_parameter(key, None)


def _replace(layer: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    for place in (layer.__dict__, layer._buffers, layer._parameters):
        place.pop(key, None)
    layer.register_parameter(key, torch.nn.Parameter(value.detach().clone(), requires_grad=False))


def _keep_computed(part: torch.nn.Module) -> None:
    if parametrize.is_parametrized(part):
        # remove_parametrizations would change the class, which the original of this copy shares.
        values = {key: getattr(part, key).detach().clone() for key in part.parametrizations}  # type: ignore[union-attr]
        part.__class__ = type(part).__bases__[0]
        del part.parametrizations
        for key, value in values.items():
            part.register_parameter(key, torch.nn.Parameter(value, requires_grad=False))
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
