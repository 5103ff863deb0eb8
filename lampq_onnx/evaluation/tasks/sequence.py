"""Score models that give one class for each step, such as the characters of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import accuracy_to_float, require_outputs
from lampq_onnx.measures.accuracy import kl_divergence
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs
from lampq_onnx.measures.evidence import error_of_mean

SEQUENCES = "images with the same decoded sequence"

Text = tuple[int, ...]
"""Classes of a decoded sequence."""


class SequenceMeter:
    """Decoded sequences of scores (n, steps, classes) against labels, or against the float model's without labels.

    The likeliest class of each step is taken, repeated ones are joined, and the blank is left out, as CTC does. With
    labels, the score is the share of images whose whole sequence is right; without, it is 1 - edit distance / length of
    the longer of the two sequences.

    Args:
        spec: holds the blank.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._errors = ErrorMeter()
        self._kl: list[float] = []
        self._float: list[Text] = []
        self._quantized: list[Text] = []
        self._truth: list[Text] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        require_outputs(reference, quantized, 3, "class scores for each step (n, steps, classes)")
        if self._spec.blank is None:
            raise LampqError(
                "the file does not say which class of the sequence is the blank",
                hint="quantize the model again: the blank is found on the calibration images",
            )
        self._errors.add(reference, quantized)
        for first, second in zip(reference, quantized, strict=True):
            self._kl.append(float(kl_divergence(first, second).sum()))
        self._float += decoded(reference, self._spec.blank)
        self._quantized += decoded(quantized, self._spec.blank)
        if batch.targets is not None:
            self._truth += texts_of(batch.targets)

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        if not self._kl:
            raise ValueError("no images were counted")
        near = np.array([closeness(a, b) for a, b in zip(self._float, self._quantized, strict=True)])
        same = float(np.mean([a == b for a, b in zip(self._float, self._quantized, strict=True)]))
        kl = float(np.mean(self._kl))
        if not self._truth:
            return accuracy_to_float(
                "closeness of sequences to float",
                float(near.mean()),
                near,
                self._errors,
                agreement=same,
                agreement_counts=SEQUENCES,
                kl=kl,
            )
        right = np.array(
            [
                (a == truth, b == truth)
                for a, b, truth in zip(self._float, self._quantized, self._truth, strict=True)
            ],
            dtype=np.float64,
        )  # fmt: skip
        first, second = (float(value) for value in right.mean(0))
        rates = [character_error_rate(found, self._truth) for found in (self._float, self._quantized)]
        named: dict[str, Any] = {"float": TopK(top1=first, top5=None)}  # a keyword that is the name of a built-in
        return Accuracy(
            metric="sequences right",
            samples=len(self._kl),
            **named,
            quantized=TopK(top1=second, top5=None),
            drop_points=100 * (first - second),
            standard_error_points=100 * error_of_mean(right[:, 0] - right[:, 1]),
            agreement=same,
            agreement_counts=SEQUENCES,
            logit_sqnr_db=self._errors.sqnr_db,
            kl=kl,
            scores={"character error rate": (rates[0], rates[1])},
        )


def decoded(scores: Outputs, blank: int) -> list[Text]:
    """Decode scores (n, steps, classes): the best class of each step, repeated ones joined, without the blank."""
    best = scores.argmax(-1)
    changed = np.concatenate([np.ones((len(best), 1), bool), best[:, 1:] != best[:, :-1]], axis=1)
    return [
        tuple(int(c) for c in row[new & (row != blank)]) for row, new in zip(best, changed, strict=True)
    ]  # fmt: skip


def most_frequent(scores: Outputs) -> int:
    """Return the class that is the best at most steps of scores (n, steps, classes): a CTC model's blank."""
    return int(np.bincount(scores.argmax(-1).ravel(), minlength=scores.shape[-1]).argmax())


def texts_of(targets: npt.NDArray[np.float64]) -> list[Text]:
    """Read labels (n, length) as sequences; numbers below 0 and NaN only fill the rows up.

    Raises:
        LampqError: the labels are no rows of whole numbers.
    """
    rows = targets.reshape(len(targets), -1)
    known = ~np.isnan(rows) & (rows >= 0)
    if (rows[known] != np.round(rows[known])).any():
        raise LampqError(
            "the labels of a sequence must be whole numbers, the classes of its steps",
            hint="fill shorter rows up with -1",
        )
    return [tuple(int(value) for value in row[own]) for row, own in zip(rows, known, strict=True)]


def closeness(first: Text, second: Text) -> float:
    """Return 1 - edit distance / length of the longer sequence; 1 for two empty ones."""
    return 1 - edit_distance(first, second) / max(len(first), len(second), 1)


def character_error_rate(found: Sequence[Text], truth: Sequence[Text]) -> float:
    """Return the sum of edit distances over the number of true classes."""
    wrong = sum(edit_distance(a, b) for a, b in zip(found, truth, strict=True))
    return wrong / max(sum(map(len, truth)), 1)


def edit_distance(first: Text, second: Text) -> int:
    """Return the least number of insertions, deletions and replacements that turn one sequence into the other."""
    row = list(range(len(second) + 1))
    for i, own in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (own != other))
    return row[-1]
