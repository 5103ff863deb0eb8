"""Choose the meter, and the way labels are read, for each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lampq_onnx.artifacts.task import SEVERAL, Kind, TaskName, TaskSpec
from lampq_onnx.data import Batch, BatchedImages, ImageSource, Preprocessing, open_source
from lampq_onnx.data.listed import Listed
from lampq_onnx.data.sources import LabelKind
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.binary import BinaryMeter, decisions
from lampq_onnx.evaluation.tasks.binary_segmentation import BinarySegmentationMeter
from lampq_onnx.evaluation.tasks.classification import ClassificationMeter
from lampq_onnx.evaluation.tasks.dense_regression import DenseRegressionMeter
from lampq_onnx.evaluation.tasks.detection import DetectionMeter
from lampq_onnx.evaluation.tasks.embedding import EmbeddingMeter
from lampq_onnx.evaluation.tasks.features import FeaturesMeter
from lampq_onnx.evaluation.tasks.measured import needs_measuring
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.evaluation.tasks.multi_label import MultiLabelMeter
from lampq_onnx.evaluation.tasks.regression import RegressionMeter
from lampq_onnx.evaluation.tasks.segmentation import SegmentationMeter
from lampq_onnx.evaluation.tasks.sequence import SequenceMeter
from lampq_onnx.evaluation.tasks.several import SeveralMeter

_BOXES = "give a COCO annotation file (.json), or a folder with annotations.json and its images"


def open_validation(path: Path | Listed, spec: TaskSpec, num_classes: int | None) -> ImageSource:
    """Open images with what the task is scored against.

    That is a label for classification, and boxes for detection. For binary and regression it is the labels, if there
    are any. Other tasks need nothing.

    Args:
        path: a file or folder, or a data set of Python that is open.
        spec: the task.
        num_classes: number of classes of the model; None: not known.

    Raises:
        LampqError: see `open_source`; or boxes are missing for detection, or the labels belong to another task.
    """
    # Labels belong to the first of several outputs.
    spec = next(iter(spec.parts), spec)
    classify = spec.kind == "classification"
    if isinstance(path, Listed):
        source = (
            path.with_numbers()
            if _LABELS.get(spec.kind) == "numbers"
            else path.with_classes(num_classes if classify else None, need_labels=classify, class_names=spec.classes)
        )
    else:
        source = open_source(
            path,
            num_classes=num_classes if classify else None,
            need_labels=classify,
            class_names=spec.classes,
            labels=_LABELS.get(spec.kind, "none"),
        )
    if spec.kind == "binary":
        labels = decisions(Batch(np.zeros((0,), np.float32), source.labels, 0, source.targets))
        return replace(source, labels=labels, targets=None)
    if spec.kind == "detection" and source.objects is None:
        raise LampqError(
            f"{source.description}: detection is scored against boxes, but there are none",
            hint=_BOXES,
        )
    return source


def calibration_labels(spec: TaskSpec) -> LabelKind:
    """Return how labels of calibration images are read: class indices give every class its share of the images."""
    return "none" if needs_measuring(spec) or spec.kind == "binary" else "classes"


def meter_for(spec: TaskSpec, source: ImageSource | BatchedImages, preprocessing: Preprocessing) -> Meter:
    """Make a meter for one pass over all images of ``source``, in order.

    Raises:
        LampqError: the images have no boxes for detection.
    """
    if spec.kind == SEVERAL:
        return SeveralMeter(spec, [meter_for(part, source, preprocessing) for part in spec.parts])
    if spec.kind != "detection":
        return METERS[spec.kind](spec)
    if not isinstance(source, ImageSource) or source.objects is None:
        raise LampqError("detection is scored against boxes, but the validation images have none", hint=_BOXES)
    return DetectionMeter(spec, preprocessing, source.objects)


METERS: dict[TaskName, Callable[[TaskSpec], Meter]] = {
    "classification": lambda _: ClassificationMeter(),
    "binary": lambda _: BinaryMeter(),
    "multi-label": lambda _: MultiLabelMeter(),
    "regression": RegressionMeter,
    "embedding": lambda _: EmbeddingMeter(),
    "segmentation": lambda _: SegmentationMeter(),
    "binary-segmentation": lambda _: BinarySegmentationMeter(),
    "dense-regression": DenseRegressionMeter,
    "features": FeaturesMeter,
    "sequence": SequenceMeter,
}
"""Meters of the tasks that need only outputs and labels."""

_LABELS: dict[Kind, LabelKind] = {
    "classification": "classes",
    "binary": "numbers",
    "regression": "numbers",
    "dense-regression": "numbers",
    "sequence": "numbers",
    "detection": "classes",
}
"""How the labels of validation images are read; tasks that are not listed use none."""
