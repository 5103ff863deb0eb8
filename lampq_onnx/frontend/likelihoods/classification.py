"""Classification: a softmax over classes."""

from __future__ import annotations

import torch
from torch.nn import functional


class ClassificationLikelihood:
    """One class per image, scores (n, classes)."""

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw one label per image, int64 (n,)."""
        return sampled_labels(outputs, generator)

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        return functional.cross_entropy(outputs.float(), targets, reduction="sum")

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return image_kl(outputs, reference)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        wanted, found = reference.float().log_softmax(-1), outputs.float().log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum(-1).mean()


def sampled_labels(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw one label per row from the model's softmax, on the CPU so that all devices agree; int64 (n,)."""
    probabilities = logits.detach().float().softmax(-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(logits.device)


def image_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(reference || logits) of each image in nats, float64 (n,)."""
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
