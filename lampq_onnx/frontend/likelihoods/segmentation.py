"""Segmentation: a softmax over classes at every pixel."""

from __future__ import annotations

import torch
from torch.nn import functional

from lampq_onnx.frontend.likelihoods.classification import image_kl, sampled_labels


class SegmentationLikelihood:
    """One class per pixel, scores (n, classes, h, w).

    An image counts as much as one of its pixels on average, so that traces and distances do not grow with the
    resolution: the distance is the mean KL per pixel, and log p is divided by the square root of the number of pixels.
    """

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw one label per pixel, independently; int64 (n, h, w)."""
        rows = outputs.detach().movedim(1, -1)
        return sampled_labels(rows.reshape(-1, rows.shape[-1]), generator).reshape(rows.shape[:-1])

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        pixels = outputs.shape[2] * outputs.shape[3]
        total: torch.Tensor = functional.cross_entropy(outputs.float(), targets, reduction="sum")
        scaled: torch.Tensor = total / pixels**0.5
        return scaled

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return image_kl(outputs.movedim(1, -1), reference.movedim(1, -1)).mean((1, 2))

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        wanted, found = reference.float().log_softmax(1), outputs.float().log_softmax(1)
        return (wanted.exp() * (wanted - found)).sum(1).mean()
