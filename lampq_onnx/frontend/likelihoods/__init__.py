"""The likelihood of each task's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from lampq_onnx.frontend.likelihoods.base import Likelihood
from lampq_onnx.frontend.likelihoods.classification import ClassificationLikelihood
from lampq_onnx.frontend.likelihoods.detection import DetectionLikelihood
from lampq_onnx.frontend.likelihoods.embedding import EmbeddingLikelihood
from lampq_onnx.frontend.likelihoods.multi_label import MultiLabelLikelihood
from lampq_onnx.frontend.likelihoods.segmentation import SegmentationLikelihood
from lampq_onnx.tasks.spec import TaskName, TaskSpec

__all__ = ["CLASSES", "Likelihood", "likelihood_for", "likelihood_of"]

CLASSES: Likelihood = ClassificationLikelihood()

_LIKELIHOODS: dict[TaskName, Callable[[TaskSpec], Likelihood]] = {
    "classification": lambda _: CLASSES,
    "multi-label": lambda _: MultiLabelLikelihood(),
    "embedding": lambda _: EmbeddingLikelihood(),
    "segmentation": lambda _: SegmentationLikelihood(),
    "detection": lambda spec: DetectionLikelihood(background=spec.background),
}


def likelihood_for(spec: TaskSpec) -> Likelihood:
    """That of a task."""
    return _LIKELIHOODS[spec.kind](spec)


def likelihood_of(model: torch.nn.Module) -> Likelihood:
    """That of a model: its attribute `likelihood`; models without one classify."""
    return cast(Likelihood, getattr(model, "likelihood", CLASSES))
