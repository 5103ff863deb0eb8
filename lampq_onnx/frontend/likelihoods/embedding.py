"""Embeddings: a Gaussian around the direction of the vector."""

from __future__ import annotations

import torch
from torch.nn import functional

from lampq_onnx.evaluation.tasks.embedding import CONCENTRATION
from lampq_onnx.frontend.likelihoods.base import normal


class EmbeddingLikelihood:
    """Unit vectors u of embeddings (n, d) with y ~ N(u, 1 / CONCENTRATION); the KL is CONCENTRATION (1 - cos)."""

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw vectors (n, d) around the model's own unit vectors."""
        centre: torch.Tensor = functional.normalize(outputs.detach().float(), dim=-1)
        drawn: torch.Tensor = centre + CONCENTRATION**-0.5 * normal(centre.shape, generator, centre)
        return drawn

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        return CONCENTRATION / 2 * (functional.normalize(outputs.float(), dim=-1) - targets).square().sum()

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        change = functional.normalize(outputs.double(), dim=-1) - functional.normalize(reference.double(), dim=-1)
        return CONCENTRATION / 2 * change.square().sum(-1)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        change = functional.normalize(outputs.float(), dim=-1) - functional.normalize(reference.float(), dim=-1)
        return CONCENTRATION / 2 * change.square().sum(-1).mean()
