"""How far a changed model is from the float one."""

from __future__ import annotations

from typing import Literal

import torch

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
    if measure == "kl":
        return float(image_kl(logits, reference).mean())
    if labels is None:
        raise LampqError(
            f"the measure {measure} needs labels of the calibration images, and they have none",
            hint="use the measure kl, or give labelled images",
        )
    if measure == "nll":
        rise = torch.nn.functional.cross_entropy(logits.double(), labels) - torch.nn.functional.cross_entropy(
            reference.double(), labels
        )
        return float(rise)
    right = (reference.argmax(-1) == labels).double().mean() - (logits.argmax(-1) == labels).double().mean()
    return float(right)


def image_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(reference || logits) of each image in nats, float64 (n,)."""
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


EVIDENCE = 2.0
"""Standard errors by which a loss has to be lower to count as lower. Of dozens of equal choices on tens of images, the
one that happens to be lowest is noise, and picking it fifty times in a row fits the images."""


def clearly_lower(losses: torch.Tensor, others: torch.Tensor, *, evidence: float = EVIDENCE) -> bool:
    """Whether the mean of paired, non-negative losses (n,) is lower by more than the pairs' scatter explains.

    The differences themselves may show it, or the differences relative to the sums: where one image makes up most of
    the loss, it makes up the scatter as well, and a change that is better on every image would not count.
    """
    losses, others = losses.double(), others.double()
    difference = losses - others
    if not bool(difference.mean() < 0):
        return False
    if len(difference) < 2:
        return True
    relative = difference / (losses + others).clamp_min(torch.finfo(torch.float64).tiny)
    return any(bool(values.mean() < -evidence * _error_of_mean(values)) for values in (difference, relative))


def _error_of_mean(values: torch.Tensor) -> torch.Tensor:
    error: torch.Tensor = values.std() / len(values) ** 0.5
    return error
