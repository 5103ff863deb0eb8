"""Compare a stand-in with its original on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tools.bench.hard.blocks import blocks_of

Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], None]


@dataclass
class Spread:
    """Streamed moments and extremes of one layer's input."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: torch.Tensor) -> None:
        self.count += values.numel()
        self.total += values.sum(dtype=torch.float64).item()
        self.squares += values.double().square().sum().item()
        self.low = min(self.low, values.min().item())
        self.high = max(self.high, values.max().item())

    @property
    def deviation(self) -> float:
        return math.sqrt(max(self.squares / self.count - (self.total / self.count) ** 2, 0.0))

    @property
    def range_in_deviations(self) -> float:
        return (self.high - self.low) / self.deviation if self.deviation else 0.0


@dataclass(frozen=True)
class Comparison:
    """Compares a stand-in with its original on the same images.

    Attributes:
        logit_change: relative L2.
        agreement: share of images with the same top-1.
        before, after: range of every block's fc2 input in standard deviations.
    """

    logit_change: float
    agreement: float
    before: list[float]
    after: list[float]


@torch.no_grad()
def compare(original: nn.Module, stand_in: nn.Module, images: Sequence[torch.Tensor]) -> Comparison:
    """Logits and fc2 inputs of both on the same images."""
    logits, ranges = zip(*(_logits_and_ranges(model, images) for model in (original, stand_in)), strict=True)
    change = (logits[1] - logits[0]).norm() / logits[0].norm()
    agreement = (logits[1].argmax(1) == logits[0].argmax(1)).double().mean()
    return Comparison(change.item(), agreement.item(), *ranges)


def _logits_and_ranges(model: nn.Module, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[float]]:
    blocks = blocks_of(model)
    spreads = [Spread() for _ in blocks]

    def watcher(spread: Spread) -> Hook:
        return lambda _, x: spread.add(x[0])

    hooks = [
        block.mlp.fc2.register_forward_pre_hook(watcher(spread)) for block, spread in zip(blocks, spreads, strict=True)
    ]
    try:
        logits = torch.cat([model(batch) for batch in images])
    finally:
        for hook in hooks:
            hook.remove()
    return logits, [spread.range_in_deviations for spread in spreads]
