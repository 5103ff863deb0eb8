"""Likelihoods: the probability of an answer given a model's outputs, one class per task."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from lampq_onnx.artifacts.task import Kind, TaskSpec
from lampq_onnx.frontend.likelihoods.base import Likelihood
from lampq_onnx.frontend.likelihoods.binary import BinaryLikelihood
from lampq_onnx.frontend.likelihoods.binary_segmentation import BinarySegmentationLikelihood
from lampq_onnx.frontend.likelihoods.classification import ClassificationLikelihood
from lampq_onnx.frontend.likelihoods.dense_regression import DenseRegressionLikelihood
from lampq_onnx.frontend.likelihoods.detection import DetectionLikelihood
from lampq_onnx.frontend.likelihoods.embedding import EmbeddingLikelihood
from lampq_onnx.frontend.likelihoods.features import FeaturesLikelihood
from lampq_onnx.frontend.likelihoods.multi_label import MultiLabelLikelihood
from lampq_onnx.frontend.likelihoods.regression import RegressionLikelihood
from lampq_onnx.frontend.likelihoods.segmentation import SegmentationLikelihood
from lampq_onnx.frontend.likelihoods.sequence import SequenceLikelihood
from lampq_onnx.frontend.likelihoods.several import SeveralLikelihood

__all__ = ["CLASSES", "Likelihood", "answers_of", "likelihood_for", "likelihood_of"]

CLASSES: Likelihood = ClassificationLikelihood()

_LIKELIHOODS: dict[Kind, Callable[[TaskSpec], Likelihood]] = {
    "classification": lambda _: CLASSES,
    "binary": lambda _: BinaryLikelihood(),
    "multi-label": lambda _: MultiLabelLikelihood(),
    "regression": lambda spec: RegressionLikelihood(spec.spread),
    "embedding": lambda _: EmbeddingLikelihood(),
    "segmentation": lambda _: SegmentationLikelihood(),
    "binary-segmentation": lambda _: BinarySegmentationLikelihood(),
    "dense-regression": lambda spec: DenseRegressionLikelihood(spec.spread),
    "detection": lambda spec: DetectionLikelihood(background=spec.background),
    "features": lambda spec: FeaturesLikelihood(spec.spread),
    "sequence": lambda _: SequenceLikelihood(),
    "several": lambda spec: SeveralLikelihood([(likelihood_for(part), part.shape) for part in spec.parts]),
}


def likelihood_for(spec: TaskSpec) -> Likelihood:
    """The likelihood that belongs to a task."""
    return _LIKELIHOODS[spec.kind](spec)


def answers_of(spec: TaskSpec, outputs: torch.Tensor) -> int:
    """Number of answers for each image whose distances the likelihood adds up: queries, or steps.

    Args:
        outputs: (n, queries or steps, ...) of these two tasks, of any shape for others.
    """
    return int(outputs.shape[1]) if spec.kind in {"detection", "sequence"} else 1


def likelihood_of(model: torch.nn.Module) -> Likelihood:
    """The likelihood of a model: its attribute `likelihood`, or classification if it has none."""
    return cast(Likelihood, getattr(model, "likelihood", CLASSES))
