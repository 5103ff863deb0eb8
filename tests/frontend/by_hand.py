"""A quantized model made without the package's own way to make one."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight


def by_hand(
    model: torch.nn.Module, changes: Mapping[str, QuantizedWeight], inputs: Mapping[str, ActivationQuantizer]
) -> torch.nn.Module:
    """A copy of a model with other weights and biases, and with quantized inputs."""
    changed = copy.deepcopy(model)
    for name, weight in changes.items():
        module = changed.get_submodule(name)
        module.weight.copy_(torch.from_numpy(weight.dequantize()).reshape(module.weight.shape))
        if weight.bias is not None:
            module.bias = torch.nn.Parameter(torch.from_numpy(weight.bias), requires_grad=False)
    for name, quantizer in inputs.items():
        changed.get_submodule(name).register_forward_pre_hook(
            lambda _, args, q=quantizer: (torch.from_numpy(q.fake(args[0].numpy())), *args[1:])
        )
    return changed
