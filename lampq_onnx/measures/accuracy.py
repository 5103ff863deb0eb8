"""Accuracy of a quantized model and its float model, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.measures.error_meter import ErrorMeter
from lampq_onnx.running.processes import Group

Logits = npt.NDArray[np.floating]


class AccuracyMeter:
    """Collects batches; memory is a few numbers, not the images."""

    def __init__(self) -> None:
        self._n = 0
        self._float = np.zeros(2)
        self._quantized = np.zeros(2)
        self._agree = 0
        self._errors = ErrorMeter()
        self._kl = 0.0
        self._changes = np.zeros(2)  # images that only the float model gets right, and only the quantized one

    def add(self, reference: Logits, quantized: Logits, labels: npt.NDArray[np.int64]) -> None:
        """Count a batch of logits (n, classes) of both models and the labels (n,)."""
        reference, quantized = reference.astype(np.float64), quantized.astype(np.float64)
        first = reference.argmax(1)
        answer = quantized.argmax(1)
        right, still = first == labels, answer == labels
        self._n += len(labels)
        self._float += [right.sum(), _in_top5(reference, labels)]
        self._quantized += [still.sum(), _in_top5(quantized, labels)]
        self._agree += int((first == answer).sum())
        self._errors.add(reference, quantized)
        self._kl += float(kl_divergence(reference, quantized).sum())
        self._changes += [(right & ~still).sum(), (still & ~right).sum()]

    def shared(self, group: Group) -> AccuracyMeter:
        """Merge what all processes have counted."""
        scalars = [self._n, self._agree, self._kl]
        values = group.sum(np.array([*scalars, *self._float, *self._quantized, *self._changes], np.float64))
        whole = AccuracyMeter()
        whole._n, whole._agree, whole._kl = int(values[0]), int(values[1]), float(values[2])
        whole._float, whole._quantized, whole._changes = values[3:5], values[5:7], values[7:9]
        whole._errors = self._errors.shared(group)
        return whole

    @property
    def relative_error(self) -> float:
        """Relative error |y - y_q| / |y| over all logits so far."""
        return self._errors.relative_error

    def result(self) -> Accuracy:
        """Return the figures over everything counted.

        Raises:
            ValueError: nothing was counted.
        """
        n = self._n
        if n == 0:
            raise ValueError("no images were counted")
        lost, won = self._changes / n
        spread = np.sqrt(max(lost + won - (lost - won) ** 2, 0) / n)
        named: dict[str, Any] = {
            "float": TopK(top1=self._float[0] / n, top5=self._float[1] / n)
        }  # a keyword that is the name of a built-in
        return Accuracy(
            samples=n,
            **named,
            quantized=TopK(top1=self._quantized[0] / n, top5=self._quantized[1] / n),
            drop_points=100 * (self._float[0] - self._quantized[0]) / n,
            standard_error_points=float(100 * spread),
            agreement=self._agree / n,
            logit_sqnr_db=self._errors.sqnr_db,
            kl=self._kl / n,
        )


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Compute log softmax for each row, in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def kl_divergence(reference: Logits, other: Logits) -> npt.NDArray[np.float64]:
    """Compute KL(softmax(reference) || softmax(other)) of each row in nats, (n,)."""
    p, q = log_softmax(reference), log_softmax(other)
    result: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1)
    return result


def _in_top5(logits: Logits, labels: npt.NDArray[np.int64]) -> int:
    own = logits[np.arange(len(labels)), labels]
    return int(((logits > own[:, None]).sum(1) < 5).sum())
