"""Several outputs: the product of the likelihoods of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lampq_onnx.evaluation.tasks.several import parts_of
from lampq_onnx.frontend.likelihoods.base import Likelihood


class SeveralLikelihood:
    """Joined outputs whose parts are independent given the image: log p and KL are sums over the parts.

    Args:
        parts: likelihood and shape for one image of each part, in order.
    """

    def __init__(self, parts: Sequence[tuple[Likelihood, tuple[int, ...]]]) -> None:
        self._likelihoods = [likelihood for likelihood, _ in parts]
        self._shapes = [shape for _, shape in parts]

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> list[Any]:
        """Draw an answer of each part; see `Likelihood.sample`."""
        return [own.sample(part, generator) for own, part in self._apart(outputs)]

    def nll(self, outputs: torch.Tensor, targets: list[Any]) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        found = [own.nll(part, drawn) for (own, part), drawn in zip(self._apart(outputs), targets, strict=True)]
        return torch.stack(found).sum()

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        pairs = zip(self._apart(outputs), self._apart(reference), strict=True)
        return torch.stack([own.distance(part, wanted) for (own, part), (_, wanted) in pairs]).sum(0)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        pairs = zip(self._apart(outputs), self._apart(reference), strict=True)
        return torch.stack([own.training_loss(part, wanted) for (own, part), (_, wanted) in pairs]).sum()

    def _apart(self, outputs: torch.Tensor) -> list[tuple[Likelihood, torch.Tensor]]:
        return list(zip(self._likelihoods, parts_of(outputs, self._shapes), strict=True))
