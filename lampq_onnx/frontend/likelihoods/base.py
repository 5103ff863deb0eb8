"""`Likelihood`: the interface of all tasks' likelihoods."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Likelihood(Protocol):
    """The distribution p(y|x) that a model's outputs describe, with one set of outputs per image.

    It provides sampled labels and gradients for the Fisher information, and the distance between two models.
    """

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> Any:
        """Draw answers from p(y|x), on the CPU so that all devices give the same result."""

    def nll(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """Sum over images of -log p(y|x) in nats, up to a constant; differentiable in the outputs."""

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL(reference || outputs) of each image in nats, float64 (n,)."""

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean over images of `distance`, in float32; differentiable in the outputs."""


def normal(shape: torch.Size, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of a given shape, drawn on the CPU and moved to the device of ``like``."""
    return torch.randn(shape, generator=generator).to(like.device)
