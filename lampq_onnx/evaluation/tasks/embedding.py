"""Score embedding models: one direction per image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.meter import accuracy_to_float, require_outputs
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs

CONCENTRATION = 100.0
"""1 / variance of the Gaussian around a unit vector; image towers of CLIP scale their cosines by 100."""


class EmbeddingMeter:
    """Cosine between the float and the quantized embedding (n, d) of an image.

    Agreement is the share of images whose nearest other image, by cosine, stays the same.
    """

    def __init__(self) -> None:
        self._errors = ErrorMeter()
        self._float: list[npt.NDArray[np.float64]] = []
        self._quantized: list[npt.NDArray[np.float64]] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:  # noqa: ARG002
        """Count a batch, see `Meter`; labels are not used."""
        require_outputs(reference, quantized, 2, "one embedding per image")
        self._errors.add(reference, quantized)
        self._float.append(unit_vectors(reference))
        self._quantized.append(unit_vectors(quantized))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        reference, quantized = np.concatenate(self._float), np.concatenate(self._quantized)
        cosines = (reference * quantized).sum(1)
        same = nearest(reference) == nearest(quantized)
        return accuracy_to_float(
            "cosine to float",
            float(cosines.mean()),
            cosines,
            self._errors,
            agreement=float(same.mean()),
            agreement_counts="images with the same nearest other image",
            kl=float(CONCENTRATION * (1 - cosines).mean()),
        )


def unit_vectors(values: Outputs) -> npt.NDArray[np.float64]:
    """Scale rows to length 1, float64."""
    values = values.astype(np.float64)
    result: npt.NDArray[np.float64] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
    return result


def nearest(vectors: npt.NDArray[np.float64], *, chunk: int = 1024) -> npt.NDArray[np.int64]:
    """Return the position of each row's nearest other row by cosine, (n,)."""
    found = np.zeros(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), chunk):
        cosines = vectors[start : start + chunk] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, rows + start] = -np.inf
        found[start : start + chunk] = cosines.argmax(1)
    return found
