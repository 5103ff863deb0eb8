"""Score several outputs of a model together, each by the task of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs


def parts_of(outputs: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Take joined outputs apart.

    Args:
        outputs: an array or a tensor (n, ...): joined along the last axis if the parts differ only in it, otherwise
            flattened (n, numbers).
        shapes: shape of each part for one image.

    Returns:
        One array or tensor (n, *shape) for each part.
    """
    along = len({shape[:-1] for shape in shapes}) == 1
    parts, start = [], 0
    for shape in shapes:
        size = shape[-1] if along else math.prod(shape)
        part: Any = outputs[..., start : start + size] if along else outputs[:, start : start + size]
        parts.append(part if along else part.reshape(len(outputs), *shape))
        start += size
    return parts


class SeveralMeter:
    """The figures of the first output, and the scores of the others beside it.

    KL is the sum over the outputs. Agreement is the mean over them.

    Args:
        spec: the task with its parts.
        meters: one for each part.
    """

    def __init__(self, spec: TaskSpec, meters: Sequence[Meter]) -> None:
        self._spec = spec
        self._meters = meters
        self._errors = ErrorMeter()

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        self._errors.add(reference, quantized)
        shapes = [part.shape for part in self._spec.parts]
        pairs = zip(self._meters, parts_of(reference, shapes), parts_of(quantized, shapes), strict=True)
        for meter, wanted, found in pairs:
            meter.add(wanted, found, batch)

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        found = [meter.result() for meter in self._meters]
        scores: dict[str, tuple[float | None, float]] = dict(found[0].scores)
        for part, own in zip(self._spec.parts, found, strict=True):
            name = part.outputs[0]
            if own is not found[0]:
                scores[f"{name}: {own.metric}"] = (own.float_.top1, own.quantized.top1)
                scores |= {f"{name}: {what}": values for what, values in own.scores.items()}
            scores[f"{name}: agreement ({own.agreement_counts})"] = (None, own.agreement)
        return found[0].model_copy(
            update={
                "metric": f"{self._spec.parts[0].outputs[0]}: {found[0].metric}",
                "agreement": float(np.mean([own.agreement for own in found])),
                "agreement_counts": "mean over the outputs; each of them stands beside it",
                "logit_sqnr_db": self._errors.sqnr_db,
                "kl": float(sum(own.kl for own in found)),
                "scores": scores,
            }
        )
