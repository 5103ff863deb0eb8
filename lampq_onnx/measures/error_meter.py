"""Signal and error of the outputs of two models, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lampq_onnx.running.processes import Group

Outputs = npt.NDArray[np.floating]


class ErrorMeter:
    """Sums the squares of outputs and of their errors, in float64."""

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0

    def add(self, reference: Outputs, quantized: Outputs) -> None:
        """Count a batch of outputs of any shape.

        Values that are NaN or infinite in the reference (masks) are left out. Values that are NaN or infinite only in
        the quantized outputs count as zeros, which is an error as large as the signal.
        """
        reference, quantized = reference.astype(np.float64), quantized.astype(np.float64)
        known = np.isfinite(reference)
        if not known.all():
            reference, quantized = np.where(known, reference, 0.0), np.where(known, quantized, 0.0)
        quantized = np.where(np.isfinite(quantized), quantized, 0.0)
        self._signal += float((reference**2).sum())
        self._noise += float(((reference - quantized) ** 2).sum())

    @classmethod
    def joined(cls, parts: Iterable[ErrorMeter]) -> ErrorMeter:
        """Merge what several meters have counted."""
        whole = cls()
        for part in parts:
            whole._signal += part._signal
            whole._noise += part._noise
        return whole

    def shared(self, group: Group) -> ErrorMeter:
        """Merge what all processes have counted."""
        whole = ErrorMeter()
        whole._signal, whole._noise = (float(v) for v in group.sum(np.array([self._signal, self._noise])))
        return whole

    @property
    def relative_error(self) -> float:
        """Relative error |y - y_q| / |y| over all outputs so far."""
        return float(np.sqrt(self._noise / max(self._signal, np.finfo(float).tiny)))

    @property
    def sqnr_db(self) -> float | None:
        """10 log10(|y|^2 / |y - y_q|^2) in dB; None if there is no error."""
        if self._noise == 0:
            return None
        return float(10 * np.log10(max(self._signal, np.finfo(float).tiny) / self._noise))
