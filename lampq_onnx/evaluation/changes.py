"""Find the images that two files answer differently, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.details import AnswerChanges, ChangedImage, ClassChange
from lampq_onnx.measures.accuracy import Logits, log_softmax

SHOWN = 24
"""Maximum number of images that are listed one by one."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Change:
    index: int
    label: int
    answers: tuple[int, int]
    probabilities: tuple[float, float]

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: lost answers first, the most certain of them first; then other and won ones."""
        first, second = (answer == self.label for answer in self.answers)
        return (0 if first else 2 if second else 1, -min(self.probabilities))


class ChangeMeter:
    """Collects batches; memory is a few numbers per class and per changed image."""

    def __init__(self) -> None:
        self._classes: dict[int, npt.NDArray[np.int64]] = {}
        self._changed: list[_Change] = []

    def add(self, reference: Logits, quantized: Logits, labels: Labels, start: int) -> None:
        """Count a batch: logits (n, classes) of both models, labels (n,), and the position of the first image."""
        first, second = reference.argmax(1), quantized.argmax(1)
        for label in np.unique(labels):
            own = labels == label
            counts = [own.sum(), (first[own] == label).sum(), (second[own] == label).sum()]
            self._classes[int(label)] = self._classes.get(int(label), np.zeros(3, np.int64)) + counts
        sure = [np.exp(log_softmax(logits).max(1)) for logits in (reference, quantized)]
        self._changed.extend(
            _Change(
                start + int(i),
                int(labels[i]),
                (int(first[i]), int(second[i])),
                (float(sure[0][i]), float(sure[1][i])),
            )
            for i in np.flatnonzero(first != second)
        )

    def result(self, name: Callable[[int], str], thumbnail: Callable[[int], str | None]) -> AnswerChanges:
        """Return the counts, by class, and the chosen images.

        Args:
            name: returns the name of the image at a position.
            thumbnail: returns its picture (JPEG, base64); called only for the listed images.
        """
        ranks = [change.rank[0] for change in self._changed]
        shown = sorted(self._changed, key=lambda change: change.rank)[:SHOWN]
        return AnswerChanges(
            lost=ranks.count(0),
            won=ranks.count(2),
            other=ranks.count(1),
            classes=tuple(
                ClassChange(label=label, samples=int(n), float_right=int(first), quantized_right=int(second))
                for label, (n, first, second) in sorted(self._classes.items())
            ),
            images=tuple(
                ChangedImage(
                    image=name(change.index),
                    label=change.label,
                    float_answer=change.answers[0],
                    quantized_answer=change.answers[1],
                    float_probability=change.probabilities[0],
                    quantized_probability=change.probabilities[1],
                    thumbnail=thumbnail(change.index),
                )
                for change in shown
            ),
        )
