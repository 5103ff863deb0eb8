"""Multi-label classification: a Bernoulli distribution for each class."""

from __future__ import annotations

import torch
from torch.nn import functional


class MultiLabelLikelihood:
    """Any number of classes per image, scores (n, classes)."""

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw yes (1) or no (0) for every class, float32 (n, classes)."""
        return torch.bernoulli(outputs.detach().float().sigmoid().cpu(), generator=generator).to(outputs.device)

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        return functional.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="sum")

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return bernoulli_kl(outputs.double(), reference.double()).sum(-1)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        return bernoulli_kl(outputs.float(), reference.float()).sum(-1).mean()


def bernoulli_kl(scores: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(reference || scores) of every pair of sigmoids in nats, in the shape of ``scores``."""
    yes = functional.logsigmoid(reference) - functional.logsigmoid(scores)
    no = functional.logsigmoid(-reference) - functional.logsigmoid(-scores)
    p = reference.sigmoid()
    return p * yes + (1 - p) * no
