"""What a model's outputs say about its answers, as a probability."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Likelihood(Protocol):
    """p(y|x) from the outputs of a model, one set of outputs an image.

    It gives the Fisher information its labels and gradients, and every stage that compares two models its distance.
    """

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> Any:
        """Answers drawn from p(y|x); drawn on the CPU, so that devices agree."""

    def nll(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """Sum over images of -log p(y|x) in nats, up to a constant; differentiable in the outputs."""

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL(reference || outputs) of each image in nats, float64 (n,)."""

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean of the same distance in float32; differentiable in the outputs."""


def normal(shape: torch.Size, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers, drawn on the CPU."""
    return torch.randn(shape, generator=generator).to(like.device)
