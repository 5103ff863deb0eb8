"""Score features: vectors of tokens, of images, or of positions in a map, which another program reads."""

from __future__ import annotations

import numpy as np

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.meter import accuracy_to_float, require_outputs
from lampq_onnx.evaluation.tasks.spread import Floats, columns, feature_units
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs

NEIGHBOURS = 5
"""Most neighbours of an image that are compared; at most half of the other images."""


class FeaturesMeter:
    """Cosine between the float and the quantized vectors of features (n, ...), mean over the vectors of an image.

    Agreement is the share of an image's nearest other images that stay the same, by the cosine of the mean vectors of
    images around the mean of all images.

    Args:
        spec: holds the spread of each channel.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._errors = ErrorMeter()
        self._cosines: list[float] = []
        self._kl: list[float] = []
        self._float: list[Floats] = []
        self._quantized: list[Floats] = []

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:  # noqa: ARG002
        """Count a batch, see `Meter`; labels are not used."""
        require_outputs(reference, quantized, max(reference.ndim, 2), "features of each image (n, ...)")
        self._errors.add(reference, quantized)
        for first, second in zip(reference, quantized, strict=True):
            units = feature_units(self._spec, first[None])
            wanted, found = columns(first[None], features=True), columns(second[None], features=True)
            lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
            products = (wanted * found).sum(1)
            same = np.where(lengths > 0, products / np.maximum(lengths, 1e-30), (wanted == found).all(1))
            self._cosines.append(float(same.mean()))
            # An image counts as much as one of its vectors.
            self._kl.append(float((((found - wanted) / units) ** 2).sum() / (2 * len(wanted))))
            self._float.append(wanted.mean(0))
            self._quantized.append(found.mean(0))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        if not self._cosines:
            raise ValueError("no images were counted")
        cosines = np.array(self._cosines)
        count = neighbours_of(len(cosines))
        near = [nearest_images(np.stack(rows), count) for rows in (self._float, self._quantized)]
        kept = [len(set(a) & set(b)) / count for a, b in zip(*near, strict=True)] if count else [1.0]
        return accuracy_to_float(
            "cosine to float",
            float(cosines.mean()),
            cosines,
            self._errors,
            agreement=float(np.mean(kept)),
            agreement_counts=f"of the {count} nearest other images of each image, those that stay the same",
            kl=float(np.mean(self._kl)),
        )


def neighbours_of(images: int) -> int:
    """Return how many neighbours of each image are compared; 0 for two images, whose neighbours cannot change."""
    return min(NEIGHBOURS, (images - 1) // 2)


def nearest_images(vectors: Floats, count: int, *, chunk: int = 1024) -> list[tuple[int, ...]]:
    """Return the positions of the ``count`` nearest other rows of each row, by cosine around the mean of all rows."""
    centered = vectors - vectors.mean(0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-30)
    found: list[tuple[int, ...]] = []
    for start in range(0, len(unit), chunk):
        cosines = unit[start : start + chunk] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, rows + start] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        found += [tuple(int(position) for position in row) for row in order]
    return found
