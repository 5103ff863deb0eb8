"""Score segmentation models: one class per pixel, compared with the float model's map."""

from __future__ import annotations

import numpy as np

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.meter import accuracy_to_float, require_outputs
from lampq_onnx.measures.accuracy import kl_divergence
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs


class SegmentationMeter:
    """Pixel agreement and mean IoU of the classes with the float model's map, over scores (n, classes, h, w).

    Mean IoU counts the classes that appear in either map.
    """

    def __init__(self) -> None:
        self._errors = ErrorMeter()
        self._confusion = np.zeros((0, 0), dtype=np.int64)
        self._same: list[float] = []
        self._kl: list[float] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:  # noqa: ARG002
        """Count a batch, see `Meter`; labels are not used."""
        require_outputs(reference, quantized, 4, "one map of class scores per image (n, classes, h, w)")
        self._errors.add(reference, quantized)
        classes = reference.shape[1]
        if not self._confusion.size:
            self._confusion = np.zeros((classes, classes), dtype=np.int64)
        for wanted, got in zip(reference, quantized, strict=True):
            first, second = wanted.argmax(0).ravel(), got.argmax(0).ravel()
            self._confusion += np.bincount(first * classes + second, minlength=classes**2).reshape(classes, classes)
            self._same.append(float((first == second).mean()))
            pixels = [scores.reshape(classes, -1).T for scores in (wanted, got)]
            self._kl.append(float(kl_divergence(*pixels).mean()))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        right = np.diag(self._confusion)
        union = self._confusion.sum(0) + self._confusion.sum(1) - right
        iou = float((right[union > 0] / union[union > 0]).mean())
        same = np.array(self._same)
        return accuracy_to_float(
            "mean IoU to float",
            iou,
            same,
            self._errors,
            agreement=float(same.mean()),
            agreement_counts="pixels of the same class",
            kl=float(np.mean(self._kl)),
        )
