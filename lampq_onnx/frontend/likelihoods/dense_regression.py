"""Dense regression: a Gaussian around the number at every pixel."""

from __future__ import annotations

import torch

from lampq_onnx.frontend.likelihoods.regression import RegressionLikelihood


class DenseRegressionLikelihood(RegressionLikelihood):
    """Maps (n, channels, h, w) or (n, h, w) with y ~ N(output, spread^2) at every pixel.

    An image counts as much as one of its pixels on average, so that traces and distances do not grow with the
    resolution: the distance is the mean KL per pixel, and log p is divided by the square root of the number of pixels.
    """

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        scaled: torch.Tensor = super().nll(outputs, targets) / _pixels(outputs) ** 0.5
        return scaled

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return super().distance(outputs, reference) / _pixels(outputs)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        return super().training_loss(outputs, reference) / _pixels(outputs)


def _pixels(maps: torch.Tensor) -> int:
    return maps.shape[-2] * maps.shape[-1]
