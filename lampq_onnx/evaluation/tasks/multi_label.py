"""Score multi-label models: any number of classes per image, compared with the float model's answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.meter import accuracy_to_float, require_outputs
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs


class MultiLabelMeter:
    """Share of classes with the float model's yes or no (probability above 0.5), over scores (n, classes).

    The score is the mean over images of the Jaccard index of the two sets of classes; two empty sets are equal.
    """

    def __init__(self) -> None:
        self._errors = ErrorMeter()
        self._jaccard: list[npt.NDArray[np.float64]] = []
        self._same: list[npt.NDArray[np.bool_]] = []
        self._kl: list[npt.NDArray[np.float64]] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:  # noqa: ARG002
        """Count a batch, see `Meter`; labels are not used."""
        require_outputs(reference, quantized, 2, "one row of class scores per image")
        self._errors.add(reference, quantized)
        first, second = reference > 0, quantized > 0
        union = (first | second).sum(1)
        self._jaccard.append(np.where(union > 0, (first & second).sum(1) / np.maximum(union, 1), 1.0))
        self._same.append((first == second).all(1))
        self._kl.append(bernoulli_kl(reference, quantized).sum(1))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        jaccard = np.concatenate(self._jaccard)
        return accuracy_to_float(
            "Jaccard index to float",
            float(jaccard.mean()),
            jaccard,
            self._errors,
            agreement=float(np.concatenate(self._same).mean()),
            agreement_counts="images with the same set of classes",
            kl=float(np.concatenate(self._kl).mean()),
        )


def bernoulli_kl(reference: Outputs, other: Outputs) -> npt.NDArray[np.float64]:
    """Compute the KL of the sigmoid probabilities of every score, in nats, in the shape of the scores."""
    a, b = reference.astype(np.float64), other.astype(np.float64)
    # log sigmoid(x) = -log(1 + e^-x)
    yes, no = np.logaddexp(0, -b) - np.logaddexp(0, -a), np.logaddexp(0, b) - np.logaddexp(0, a)
    p = np.exp(-np.logaddexp(0, -a))
    result: npt.NDArray[np.float64] = p * yes + (1 - p) * no
    return result
