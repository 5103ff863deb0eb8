"""Binary segmentation: a Bernoulli distribution at every pixel."""

from __future__ import annotations

import torch

from lampq_onnx.frontend.likelihoods.segmentation import SegmentationLikelihood


class BinarySegmentationLikelihood:
    """Yes or no per pixel, logits (n, 1, h, w).

    A sigmoid of a logit equals a softmax over 0 and that logit, so this is segmentation with two classes.
    """

    def __init__(self) -> None:
        self._classes = SegmentationLikelihood()

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw yes (1) or no (0) for every pixel, int64 (n, h, w)."""
        return self._classes.sample(_two_classes(outputs), generator)

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        return self._classes.nll(_two_classes(outputs), targets)

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return self._classes.distance(_two_classes(outputs), _two_classes(reference))

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        return self._classes.training_loss(_two_classes(outputs), _two_classes(reference))


def _two_classes(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(logits), logits], 1)
