"""The meter of each task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing, open_source
from lampq_onnx.errors import LampqError
from lampq_onnx.tasks.classification import ClassificationMeter
from lampq_onnx.tasks.detection import DetectionMeter
from lampq_onnx.tasks.embedding import EmbeddingMeter
from lampq_onnx.tasks.meter import Meter
from lampq_onnx.tasks.multi_label import MultiLabelMeter
from lampq_onnx.tasks.segmentation import SegmentationMeter
from lampq_onnx.tasks.spec import TaskName, TaskSpec

_BOXES = "give a COCO annotation file (.json), or a folder with annotations.json and its images"


def open_validation(path: Path, spec: TaskSpec, num_classes: int | None) -> ImageSource:
    """Images with what the task is scored against: labels for classification, boxes for detection, else none.

    Raises:
        LampqError: see `open_source`; also no boxes where they are needed.
    """
    classify = spec.kind == "classification"
    source = open_source(
        path, num_classes=num_classes if classify else None, need_labels=classify, class_names=spec.classes
    )
    if spec.kind == "detection" and source.objects is None:
        raise LampqError(
            f"{source.description}: detection is scored against boxes, and there are none",
            hint=_BOXES,
        )
    return source


def meter_for(spec: TaskSpec, source: ImageSource | BatchedImages, preprocessing: Preprocessing) -> Meter:
    """A meter for one pass over all images of ``source``, in order.

    Raises:
        LampqError: images without boxes for detection.
    """
    if spec.kind != "detection":
        return _METERS[spec.kind]()
    if not isinstance(source, ImageSource) or source.objects is None:
        raise LampqError("detection is scored against boxes, and the validation images have none", hint=_BOXES)
    return DetectionMeter(spec, preprocessing, source.objects)


_METERS: dict[TaskName, Callable[[], Meter]] = {
    "classification": ClassificationMeter,
    "multi-label": MultiLabelMeter,
    "embedding": EmbeddingMeter,
    "segmentation": SegmentationMeter,
}
