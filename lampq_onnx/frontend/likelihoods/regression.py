"""Regression: a Gaussian around each real output."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lampq_onnx.frontend.likelihoods.base import normal


class RegressionLikelihood:
    """Outputs (n, k) with y_j ~ N(output_j, spread_j^2); the KL is half the squared change, in multiples of the spread.

    Args:
        spread: standard deviation of each output over calibration images; empty means 1 for all, until it is measured.
    """

    def __init__(self, spread: Sequence[float]) -> None:
        self._spread = torch.tensor(spread or (1.0,), dtype=torch.float64)

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw numbers around the model's own outputs, in the same shape."""
        centre = outputs.detach().float()
        return centre + self._units(centre) * normal(centre.shape, generator, centre)

    def nll(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        values = outputs.float()
        return ((values - targets) / self._units(values)).square().sum() / 2

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        return self._halves(outputs.double(), reference.double()).flatten(1).sum(1)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        return self._halves(outputs.float(), reference.float()).flatten(1).sum(1).mean()

    def _halves(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return ((outputs - reference) / self._units(outputs)).square() / 2

    def _units(self, like: torch.Tensor) -> torch.Tensor:
        """The spread, shaped to divide outputs; one number per channel for maps (n, channels, h, w)."""
        units = self._spread.to(like)
        return units.reshape(-1, 1, 1) if like.ndim == 4 else units
