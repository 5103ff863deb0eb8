"""Score models that give real numbers at every pixel, such as depth."""

from __future__ import annotations

from typing import Any

import numpy as np

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import require_outputs, truth_of
from lampq_onnx.evaluation.tasks.regression import CLOSENESS
from lampq_onnx.evaluation.tasks.spread import Floats, units_of
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs
from lampq_onnx.measures.evidence import error_of_mean

RATIO = 1.25
"""Largest ratio of two depths that counts as right; the share of such pixels is called delta1."""


class DenseRegressionMeter:
    """delta1 and absolute relative error of maps (n, channels, h, w) or (n, h, w) against targets of that shape.

    Without targets, the float model's maps are the reference. Pixels whose reference is NaN are left out of all scores,
    those whose reference is 0 out of the absolute relative error. Two numbers of different sign are never right.

    Args:
        spec: holds the spread of each channel.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._errors = ErrorMeter()
        self._right: list[tuple[float, float]] = []
        self._relative: list[tuple[float, float]] = []
        self._close: list[float] = []
        self._kl: list[float] = []
        self._labelled = False

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`."""
        axes = 3 if reference.ndim == 3 else 4
        require_outputs(reference, quantized, axes, "maps (n, channels, h, w) or (n, h, w)")
        units = units_of(self._spec, reference)
        self._errors.add(reference, quantized)
        maps = reference.astype(np.float64), quantized.astype(np.float64)
        self._labelled = batch.targets is not None
        truth = maps[0] if batch.targets is None else truth_of(batch.targets, reference.shape)
        for first, second, wanted in zip(*maps, truth, strict=True):
            change = np.abs(second - first) / units
            self._close.append(float(np.maximum(0, 1 - change).mean()))
            # Channels are separate outputs; an image counts as much as one of its pixels.
            pixels = first.shape[-1] * first.shape[-2]
            self._kl.append(float((change**2).sum() / (2 * pixels)))
            if np.isnan(wanted).all():
                continue
            self._right.append((delta1(first, wanted), delta1(second, wanted)))
            self._relative.append((absolute_relative(first, wanted), absolute_relative(second, wanted)))

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        if not self._close:
            raise ValueError("no images were counted")
        if not self._right:
            raise LampqError("no pixel of the validation images has a label", hint="a label of NaN means: not known")
        right, relative = np.array(self._right), np.array(self._relative)
        scores = [float(value) for value in right.mean(0)]
        errors = [float(value) for value in relative.mean(0)]
        suffix = "" if self._labelled else " to float"
        named: dict[str, Any] = {"float": TopK(top1=scores[0], top5=None)}  # a keyword that is the name of a built-in
        return Accuracy(
            metric=f"delta1{suffix}",
            samples=len(self._close),
            **named,
            quantized=TopK(top1=scores[1], top5=None),
            drop_points=100 * (scores[0] - scores[1]),
            standard_error_points=100 * error_of_mean(right[:, 0] - right[:, 1]),
            agreement=float(np.mean(self._close)),
            agreement_counts=CLOSENESS.format("pixels"),
            logit_sqnr_db=self._errors.sqnr_db,
            kl=float(np.mean(self._kl)),
            scores={f"absolute relative error{suffix}": (errors[0] if self._labelled else None, errors[1])},
        )


def delta1(values: Floats, truth: Floats) -> float:
    """Return the share of pixels whose larger number is below `RATIO` times the smaller; NaN truth is left out."""
    known = ~np.isnan(truth)
    first, second = np.abs(values[known]), np.abs(truth[known])
    same = np.sign(values[known]) == np.sign(truth[known])
    close = np.maximum(first, second) < RATIO * np.minimum(first, second)
    return float((same & (close | (first == second))).mean())


def absolute_relative(values: Floats, truth: Floats) -> float:
    """Return the mean of |value - truth| / |truth| over pixels whose truth is neither 0 nor NaN; 0 for no pixels."""
    known = ~np.isnan(truth) & (truth != 0)
    if not known.any():
        return 0.0
    return float((np.abs(values[known] - truth[known]) / np.abs(truth[known])).mean())
