"""Score yes-or-no maps: one logit per pixel."""

from __future__ import annotations

from dataclasses import replace

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.binary import two_classes
from lampq_onnx.evaluation.tasks.meter import require_outputs
from lampq_onnx.evaluation.tasks.segmentation import SegmentationMeter
from lampq_onnx.measures.error_meter import Outputs


class BinarySegmentationMeter:
    """Pixel agreement and mean IoU of "yes" and "no" with the float model's map, over logits (n, 1, h, w)."""

    def __init__(self) -> None:
        self._meter = SegmentationMeter()

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`; labels are not used."""
        require_outputs(reference, quantized, 4, "one map of logits for each image (n, 1, h, w)")
        if reference.shape[1] != 1:
            raise LampqError(f"the files give {reference.shape[1]} maps for each image, not one")
        self._meter.add(two_classes(reference), two_classes(quantized), replace(batch, labels=None))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        return self._meter.result().model_copy(update={"agreement_counts": "pixels with the same decision"})
