"""Score yes-or-no models: one logit per image."""

from __future__ import annotations

import numpy as np

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.data import Batch
from lampq_onnx.data.source import Labels
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import require_outputs
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.measures.error_meter import Outputs


class BinaryMeter:
    """Share of images whose decision (probability of at least 0.5) equals the label, over logits (n, 1).

    Images without labels are scored against the float model's decisions. A sigmoid of a logit is a softmax over that
    logit and 0, so the figures are those of two classes.
    """

    def __init__(self) -> None:
        self._meter = AccuracyMeter()
        self._labelled = True

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        require_outputs(reference, quantized, 2, "one logit for each image (n, 1)")
        if reference.shape[1] != 1:
            raise LampqError(f"the files give {reference.shape[1]} numbers for each image, not one logit")
        labels = decisions(batch)
        if labels is None:
            self._labelled = False
            labels = (reference[:, 0] > 0).astype(np.int64)
        self._meter.add(two_classes(reference), two_classes(quantized), labels)

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        found = self._meter.result()
        return found.model_copy(
            update={
                "metric": "accuracy at 0.5" if self._labelled else "accuracy to float at 0.5",
                "float_": TopK(top1=found.float_.top1, top5=None),
                "quantized": TopK(top1=found.quantized.top1, top5=None),
                "agreement_counts": "images with the same decision",
            }
        )


def decisions(batch: Batch) -> Labels | None:
    """Return the labels 0 and 1 of a batch, int64 (n,); None if it has no labels.

    Raises:
        LampqError: a label is another number.
    """
    given = batch.targets if batch.labels is None else batch.labels
    if given is None:
        return None
    flat = given.reshape(len(given), -1)
    if flat.shape[1] != 1 or not np.isin(flat, (0, 1)).all():
        wrong = flat[~np.isin(flat, (0, 1))][:1] if flat.shape[1] == 1 else flat[0]
        raise LampqError(
            f"labels of the task binary must be 0 or 1, but an image has {', '.join(f'{v:g}' for v in wrong)}",
            hint="use --task regression for real numbers",
        )
    return flat[:, 0].astype(np.int64)


def two_classes(logits: Outputs) -> Outputs:
    """Turn logits (n, 1, ...) of "yes" into scores (n, 2, ...) of "no" and "yes"."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1)
