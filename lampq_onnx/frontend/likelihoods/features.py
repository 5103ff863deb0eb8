"""Features: a Gaussian around each number, as wide as its channel spreads over images."""

from __future__ import annotations

import torch

from lampq_onnx.evaluation.tasks.spread import channel_axis
from lampq_onnx.frontend.likelihoods.regression import RegressionLikelihood


class FeaturesLikelihood(RegressionLikelihood):
    """Vectors with y_c ~ N(feature_c, spread_c^2) for each channel c.

    An image counts as much as one of its vectors on average: the distance is the mean KL per vector, and log p is
    divided by the square root of their number.
    """

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        scaled: torch.Tensor = super().nll(outputs, targets) / _vectors(outputs) ** 0.5
        return scaled

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return super().distance(outputs, reference) / _vectors(outputs)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        return super().training_loss(outputs, reference) / _vectors(outputs)

    def _units(self, like: torch.Tensor) -> torch.Tensor:
        units = self._spread.to(like)
        axis = channel_axis(like.shape)
        return units.reshape(-1, *(1,) * (like.ndim - 1 - axis))


def _vectors(outputs: torch.Tensor) -> int:
    """Number of vectors of an image."""
    return max(outputs[0].numel() // outputs.shape[channel_axis(outputs.shape)], 1)
