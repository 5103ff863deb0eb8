"""How far a changed model is from the float one."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from lampq_onnx import evidence
from lampq_onnx.errors import LampqError

Measure = Literal["kl", "nll", "top1"]


def loss_of(logits: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor | None, measure: Measure) -> float:
    """Loss of a model against the float model; lower is better, 0 for the float model itself.

    Args:
        logits: (n, classes) of the changed model.
        reference: (n, classes) of the float model.
        labels: (n,), needed by nll and top1.
        measure: kl: mean KL(float || changed) in nats; nll: rise of the mean negative log-likelihood of the labels;
            top1: drop of accuracy as a fraction.

    Raises:
        LampqError: labels are needed and not known.
    """
    return float(image_losses(logits, reference, labels, measure).mean())


def image_losses(
    logits: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor | None, measure: Measure
) -> torch.Tensor:
    """The loss of each image, float64 (n,); see `loss_of`."""
    if measure == "kl":
        return image_kl(logits, reference)
    if labels is None:
        raise LampqError(
            f"the measure {measure} needs labels of the calibration images, and they have none",
            hint="use the measure kl, or give labelled images",
        )
    if measure == "nll":
        changed, own = (functional.cross_entropy(x.double(), labels, reduction="none") for x in (logits, reference))
        return changed - own
    return (reference.argmax(-1) == labels).double() - (logits.argmax(-1) == labels).double()


def image_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(reference || logits) of each image in nats, float64 (n,)."""
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def clearly_lower(losses: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether the mean of paired losses (n,) is lower by more than the pairs' scatter explains."""
    return evidence.clearly_lower(losses.double().cpu().numpy(), others.double().cpu().numpy())
