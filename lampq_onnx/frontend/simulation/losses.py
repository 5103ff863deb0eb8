"""Measures how far a changed model is from the float model."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.likelihoods import CLASSES, Likelihood
from lampq_onnx.measures import evidence

Measure = Literal["kl", "nll", "top1"]


def loss_of(
    logits: torch.Tensor,
    reference: torch.Tensor,
    labels: torch.Tensor | None,
    measure: Measure,
    likelihood: Likelihood = CLASSES,
) -> float:
    """Loss of a model against the float model; lower is better, 0 for the float model itself.

    Args:
        logits: outputs (n, ...) of the changed model.
        reference: outputs (n, ...) of the float model.
        labels: int64 (n,), needed by "nll" and "top1".
        measure: "kl": mean KL(float || changed) in nats. "nll": increase of the mean negative log-likelihood of the
            labels. "top1": drop of accuracy as a fraction. The last two need class labels.
        likelihood: defines the KL.

    Raises:
        UsageError: the measure does not exist for the task.
        LampqError: labels are needed but not known.
    """
    return float(image_losses(logits, reference, labels, measure, likelihood).mean())


def image_losses(
    logits: torch.Tensor,
    reference: torch.Tensor,
    labels: torch.Tensor | None,
    measure: Measure,
    likelihood: Likelihood = CLASSES,
) -> torch.Tensor:
    """The loss of each image, float64 (n,); see `loss_of`."""
    if measure == "kl":
        return likelihood.distance(logits, reference)
    if likelihood is not CLASSES:
        raise UsageError(f"the measure {measure} needs class labels", hint="use the measure kl, which every task has")
    if labels is None:
        raise LampqError(
            f"the measure {measure} needs labels of the calibration images, and they have none",
            hint="use the measure kl, or give labelled images",
        )
    if measure == "nll":
        changed, own = (functional.cross_entropy(x.double(), labels, reduction="none") for x in (logits, reference))
        return changed - own
    return (reference.argmax(-1) == labels).double() - (logits.argmax(-1) == labels).double()


def clearly_lower(losses: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether the mean of paired losses (n,) is lower by more than the variation of the pairs explains."""
    return evidence.clearly_lower(losses.double().cpu().numpy(), others.double().cpu().numpy())


def perhaps_lower(losses: torch.Tensor, others: torch.Tensor, count: int) -> bool:
    """Whether some of ``count`` paired losses may become clearly lower, see `evidence.perhaps_lower`."""
    return evidence.perhaps_lower(losses.double().cpu().numpy(), others.double().cpu().numpy(), count)
