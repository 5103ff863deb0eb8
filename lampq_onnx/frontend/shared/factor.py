"""The factor on a layer's input that equalization leaves in a model."""

from __future__ import annotations

import torch


class ChannelFactor:
    """Forward pre-hook that multiplies a layer's input by one factor per channel."""

    def __init__(self, factor: torch.Tensor) -> None:
        self.factor = factor

    def __call__(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Scale the first input, channel by channel."""
        return (inputs[0] * self.factor, *inputs[1:])
