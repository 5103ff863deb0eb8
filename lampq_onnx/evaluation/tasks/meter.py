"""The interface of all tasks' meters, and what they share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs
from lampq_onnx.measures.evidence import error_of_mean


class Meter(Protocol):
    """Collects the outputs of the float and the quantized model, batch by batch."""

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch of outputs.

        Raises:
            LampqError: the outputs or the labels of the batch do not fit the task.
        """

    def result(self) -> Accuracy:
        """Return the figures over everything counted.

        Raises:
            ValueError: nothing was counted.
        """


def require_outputs(reference: Outputs, quantized: Outputs, axes: int, what: str) -> None:
    """Require that both outputs have the same shape with ``axes`` axes, and finite numbers.

    Raises:
        LampqError: they do not.
    """
    if reference.ndim != axes or reference.shape != quantized.shape:
        raise LampqError(f"the files give outputs of shapes {reference.shape} and {quantized.shape}, not {what}")
    for name, values in (("float", reference), ("quantized", quantized)):
        if not np.isfinite(values).all():
            raise LampqError(f"the {name} file answers with NaN or infinity on a validation image")


def truth_of(targets: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Reshape targets to the shape of the outputs; an axis of length 1 may be missing in either.

    Raises:
        LampqError: the targets belong to other outputs.
    """
    wanted, found = ([size for size in sizes if size != 1] for sizes in (shape[1:], targets.shape[1:]))
    if wanted != found:
        raise LampqError(
            f"the labels of an image have the shape {targets.shape[1:]}, but the model's outputs {tuple(shape[1:])}",
            hint="give each image as many numbers as the model has outputs",
        )
    return targets.reshape(len(targets), *shape[1:])


def accuracy_to_float(
    metric: str,
    score: float,
    images: npt.NDArray[np.float64],
    errors: ErrorMeter,
    *,
    agreement: float,
    agreement_counts: str,
    kl: float,
    scores: dict[str, tuple[float | None, float]] | None = None,
) -> Accuracy:
    """Make the figures of a task whose reference is the float model's answer.

    Args:
        metric: name of ``score``.
        score: score of the quantized model, 0..1; that of the float model is 1.
        images: (n,) values whose scatter gives the standard error of the score.
        errors: errors of the outputs.
        agreement: share of images with the same answer.
        agreement_counts: what that share counts, as text.
        kl: mean divergence, in nats.
        scores: further scores: name -> (float, quantized).
    """
    named: dict[str, Any] = {"float": TopK(top1=1.0, top5=None)}  # a keyword that is the name of a built-in
    return Accuracy(
        metric=metric,
        samples=len(images),
        **named,
        quantized=TopK(top1=score, top5=None),
        drop_points=100 * (1 - score),
        standard_error_points=100 * error_of_mean(images),
        agreement=agreement,
        agreement_counts=agreement_counts,
        logit_sqnr_db=errors.sqnr_db,
        kl=kl,
        scores=scores or {},
    )
