"""Sequences: a softmax over classes at each step."""

from __future__ import annotations

import torch
from torch.nn import functional

from lampq_onnx.frontend.likelihoods.classification import image_kl, sampled_labels


class SequenceLikelihood:
    """One class for each step, scores (n, steps, classes); log p of an image is the sum over its steps."""

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw a class for every step, int64 (n, steps)."""
        return sampled_labels(outputs.flatten(0, 1), generator).reshape(outputs.shape[:2])

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        return functional.cross_entropy(outputs.float().flatten(0, 1), targets.flatten(), reduction="sum")

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return image_kl(outputs, reference).sum(-1)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        wanted, found = reference.float().log_softmax(-1), outputs.float().log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum((-1, -2)).mean()
