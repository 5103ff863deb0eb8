"""Reshapes inputs and gradients of a layer to one row per token."""

from __future__ import annotations

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError


def as_tokens(
    module: torch.nn.Linear | torch.nn.Conv2d, inputs: torch.Tensor, samples: int | None = None
) -> torch.Tensor:
    """Inputs of a layer as (n, tokens, d_in); the tokens of a Conv2d are its patches.

    Args:
        module: the layer.
        inputs: its input, in the shape that the module reads.
        samples: n, if the first dimension counts windows of images, image by image (Swin); None if it counts images.

    Raises:
        LampqError: the layer is a convolution with groups, whose weight is not a single matrix.
    """
    if isinstance(module, torch.nn.Conv2d):
        if module.groups != 1:
            raise LampqError("convolutions with groups are not supported")
        padded = _padded(module, inputs)
        return functional.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride).mT
    return inputs.reshape(samples or inputs.shape[0], -1, inputs.shape[-1])


def _padded(module: torch.nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """The padded input of a convolution, for padding by numbers and by name."""
    # (left, right, top, bottom): torch computes it when the module is created, also for "same" and "valid".
    sides = [int(side) for side in module._reversed_padding_repeated_twice]
    if not any(sides):
        return inputs
    return functional.pad(inputs, sides, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)


def grads_as_tokens(
    module: torch.nn.Linear | torch.nn.Conv2d, grads: torch.Tensor, samples: int | None = None
) -> torch.Tensor:
    """Gradients (or values) of a layer's output as (n, tokens, d_out); see `as_tokens`."""
    if isinstance(module, torch.nn.Conv2d):
        return grads.flatten(2).mT
    return grads.reshape(samples or grads.shape[0], -1, grads.shape[-1])
