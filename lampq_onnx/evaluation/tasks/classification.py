"""Score classifiers: one class per image."""

from __future__ import annotations

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import require_outputs
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.measures.error_meter import Outputs
from lampq_onnx.running.processes import Group


class ClassificationMeter:
    """Top-1 and top-5 of scores (n, classes) against labels (n,)."""

    def __init__(self) -> None:
        self._meter = AccuracyMeter()

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        if batch.labels is None:
            raise LampqError("validation needs labelled images", hint="add class folders or a labels.csv")
        require_outputs(reference, quantized, 2, "one row of class scores per image")
        if batch.labels.size and int(batch.labels.max()) >= reference.shape[1]:
            raise LampqError(f"a label is {int(batch.labels.max())}, but the model has {reference.shape[1]} classes")
        self._meter.add(reference, quantized, batch.labels)

    def shared(self, group: Group) -> ClassificationMeter:
        """Merge what all processes have counted."""
        whole = ClassificationMeter()
        whole._meter = self._meter.shared(group)
        return whole

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        return self._meter.result()
