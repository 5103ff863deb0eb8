"""Score models that give real numbers per image."""

from __future__ import annotations

from typing import Any

import numpy as np

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import require_outputs, truth_of
from lampq_onnx.evaluation.tasks.spread import Floats, units_of
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs
from lampq_onnx.measures.evidence import error_of_mean

MOVED = 0.1
"""Share of the spread from which an output counts as changed."""

CLOSENESS = "1 - change / spread of the output, at least 0, mean over {}"
"""What the agreement of real outputs means; it is 100 % only if no output changes."""


class RegressionMeter:
    """R2 and mean absolute error of outputs (n, outputs) against targets, or against the float model without targets.

    R2 is the mean over the outputs. Errors are in units of each output's spread on the calibration images.

    Args:
        spec: holds the spread of each output.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._errors = ErrorMeter()
        self._float: list[Floats] = []
        self._quantized: list[Floats] = []
        self._truth: list[Floats] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        require_outputs(reference, quantized, 2, "one row of numbers for each image (n, outputs)")
        units_of(self._spec, reference)
        self._errors.add(reference, quantized)
        self._float.append(reference.astype(np.float64))
        self._quantized.append(quantized.astype(np.float64))
        if batch.targets is not None:
            self._truth.append(truth_of(batch.targets, reference.shape))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`.

        Raises:
            LampqError: the reference is the same on all images, so that R2 is not defined.
        """
        if not self._float:
            raise ValueError("no images were counted")
        reference, quantized = np.concatenate(self._float), np.concatenate(self._quantized)
        labelled = bool(self._truth)
        truth = np.concatenate(self._truth) if labelled else reference
        units = units_of(self._spec, reference)
        change = np.abs(quantized - reference) / units
        errors = [(values - truth) ** 2 for values in (reference, quantized)]
        scatter = scatter_of(truth, "label" if labelled else "value")
        first, second = (float(1 - (squares.sum(0) / scatter).mean()) for squares in errors)
        # Each image's part of the drop; their mean is the drop.
        drops = len(truth) * ((errors[1] - errors[0]) / scatter).mean(1)
        name = "MAE in units of the spread" + ("" if labelled else ", to float")
        mae = [float((np.abs(values - truth) / units).mean()) for values in (reference, quantized)]
        scores: dict[str, tuple[float | None, float]] = {
            name: (mae[0] if labelled else None, mae[1]),
            f"within {100 * MOVED:.0f} % of the spread": (None, float((change < MOVED).mean())),
        }
        if labelled:
            to_float = ((quantized - reference) ** 2).sum(0) / scatter_of(reference, "value")
            scores["R2 to float"] = (None, float(1 - to_float.mean()))
        named: dict[str, Any] = {"float": TopK(top1=first, top5=None)}  # a keyword that is the name of a built-in
        return Accuracy(
            metric="R2" if labelled else "R2 to float",
            samples=len(truth),
            **named,
            quantized=TopK(top1=second, top5=None),
            drop_points=100 * (first - second),
            standard_error_points=100 * error_of_mean(drops),
            agreement=float(np.maximum(0, 1 - change).mean()),
            agreement_counts=CLOSENESS.format("outputs"),
            logit_sqnr_db=self._errors.sqnr_db,
            kl=float((change**2).sum(1).mean() / 2),
            scores=scores,
        )


def scatter_of(truth: Floats, what: str) -> Floats:
    """Return the sum over images of squared differences from the mean, for each output; R2 divides by it.

    Args:
        truth: (n, outputs).
        what: what the numbers are, for the message.

    Raises:
        LampqError: an output has the same number on all images.
    """
    found: Floats = ((truth - truth.mean(0)) ** 2).sum(0)
    if not (found > 0).all():
        raise LampqError(
            f"output {int(np.argmin(found))} of {len(found)} has the same {what} on all {len(truth)} validation "
            "images, so R2 cannot be measured",
            hint="validate on two images or more that differ",
        )
    return found
