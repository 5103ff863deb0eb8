"""Average precision as COCO defines it, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.data.objects import ImageObjects
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.boxes import MOST_DETECTIONS, Detections

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

FOLDS = 20
"""Number of groups of images in the jackknife."""


def precision(evaluated: COCOeval, threshold: float | None = None) -> float:
    """Return the AP over IoU 0.5 to 0.95, or at one of these thresholds; 0 if nothing is annotated."""
    table = evaluated.eval["precision"]
    if threshold is not None:
        table = table[np.isclose(evaluated.params.iouThrs, threshold)]
    counted = table[table > -1]
    return float(counted.mean()) if counted.size else 0.0


def ground_truth(images: Sequence[ImageObjects], categories: dict[int, str]) -> COCO:
    """Annotations as pycocotools takes them."""
    kind, _ = coco()
    found = kind()
    annotations: list[dict[str, Any]] = []
    for index, image in enumerate(images, 1):
        for box, category, area, crowd in zip(image.boxes, image.categories, image.areas, image.crowds, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": index, "category_id": int(category),
                    "bbox": box.tolist(), "area": float(area), "iscrowd": int(crowd),
                }
            )  # fmt: skip
    found.dataset = {
        "images": [{"id": i, "height": o.size[0], "width": o.size[1]} for i, o in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        found.createIndex()
    return found


def evaluate(truth: COCO, found: Sequence[Detections], ids: npt.NDArray[np.int64]) -> COCOeval:
    """Detections matched with annotations.

    Args:
        truth: the annotations.
        found: detections of each image.
        ids: (classes,) the category of each class of the model; -1: none.
    """
    _, kind = coco()
    rows = [
        np.column_stack([np.full(len(own.scores), index), own.boxes, own.scores, ids[own.classes]])[
            (ids[own.classes] >= 0) & (own.boxes[:, 2:] > 0).all(1)
        ]
        for index, own in enumerate(found, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(np.concatenate(rows)) if sum(map(len, rows)) else _nothing(truth)
        evaluation = kind(truth, results, "bbox")
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def folds(evaluated: COCOeval) -> list[COCOeval]:
    """Evaluate again without one group of images, for each group."""
    images = list(evaluated.params.imgIds)
    count = min(FOLDS, len(images))
    if count < 2:
        return [evaluated]
    cells = np.array(evaluated.evalImgs, dtype=object).reshape(-1, len(images))
    found = []
    for fold in range(count):
        kept = [i for i in range(len(images)) if i % count != fold]
        part = copy(evaluated)
        part.params = copy(evaluated.params)
        part.params.imgIds = [images[i] for i in kept]
        part._paramsEval = copy(part.params)
        part.evalImgs = list(cells[:, kept].ravel())
        with contextlib.redirect_stdout(io.StringIO()):
            part.accumulate()
        found.append(part)
    return found


def coco() -> tuple[type[COCO], type[COCOeval]]:
    """COCO's classes of annotations and of their evaluation.

    Raises:
        LampqError: pycocotools is missing.
    """
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415 -- an optional dependency
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise LampqError(
            "average precision needs pycocotools, which is not installed", hint="pip install 'lampq-onnx[detection]'"
        ) from error
    return COCO, COCOeval


def _nothing(truth: COCO) -> COCO:
    kind, _ = coco()
    found = kind()
    found.dataset = {**truth.dataset, "annotations": []}
    found.createIndex()
    return found
