"""What all tasks' scores have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.group import Group

Outputs = npt.NDArray[np.floating]


class Meter(Protocol):
    """Collects the outputs of the float and the quantized model, batch by batch."""

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch.

        Raises:
            LampqError: the outputs or the truth of the batch do not fit the task.
        """

    def result(self) -> Accuracy:
        """Figures over everything counted.

        Raises:
            ValueError: nothing was counted.
        """


class ErrorMeter:
    """Size of the outputs and of their errors, in float64."""

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0

    def add(self, reference: Outputs, quantized: Outputs) -> None:
        """Count a batch of outputs of any shape."""
        reference, quantized = reference.astype(np.float64), quantized.astype(np.float64)
        self._signal += float((reference**2).sum())
        self._noise += float(((reference - quantized) ** 2).sum())

    def shared(self, group: Group) -> ErrorMeter:
        """What all processes have counted."""
        whole = ErrorMeter()
        whole._signal, whole._noise = (float(v) for v in group.sum(np.array([self._signal, self._noise])))
        return whole

    @property
    def relative_error(self) -> float:
        """|y - y_q| / |y| over all outputs so far."""
        return float(np.sqrt(self._noise / max(self._signal, np.finfo(float).tiny)))

    @property
    def sqnr_db(self) -> float | None:
        """10 log10(|y|^2 / |y - y_q|^2); None where there is no error."""
        if self._noise == 0:
            return None
        return float(10 * np.log10(max(self._signal, np.finfo(float).tiny) / self._noise))


def require_outputs(reference: Outputs, quantized: Outputs, axes: int, what: str) -> None:
    """Both models answer alike, with ``axes`` axes and finite numbers.

    Raises:
        LampqError: they do not.
    """
    if reference.ndim != axes or reference.shape != quantized.shape:
        raise LampqError(f"the files answer with shapes {reference.shape} and {quantized.shape}, not with {what}")
    for name, values in (("float", reference), ("quantized", quantized)):
        if not np.isfinite(values).all():
            raise LampqError(f"the {name} file answers with NaN or infinity on a validation image")


def error_of_mean(values: npt.NDArray[np.float64]) -> float:
    """Standard error of the mean of values (n,); 0 for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
