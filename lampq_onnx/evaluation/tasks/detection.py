"""Score detectors by COCO's average precision, against annotations and against the float model's detections.

Detectors of the DETR family give a fixed set of queries, so there is no non-maximum suppression: every query is one
detection (softmax with a "no object" class), or every query and class (sigmoids).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch, Preprocessing
from lampq_onnx.data.objects import ImageObjects, Objects
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.meter import require_outputs
from lampq_onnx.evaluation.tasks.multi_label import bernoulli_kl
from lampq_onnx.measures.accuracy import kl_divergence, log_softmax
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

Floats = npt.NDArray[np.float64]

MOST_DETECTIONS = 100
"""Detections per image that count, highest scores first, as in COCO's main figure."""

CERTAIN = 0.5
"""Score from which a detection of the float model counts as an object."""

SAME_IOU = 0.5
"""IoU from which two boxes belong to the same object."""

BOX_DEVIATION = 0.1
"""Standard deviation of a box's centre and size, in units of its width and height: such a shift gives an IoU of
about 0.7."""

SMALLEST = 0.01
"""Smallest width and height in those units, as shares of the input."""

FOLDS = 20
"""Number of groups of images in the jackknife."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one image.

    Attributes:
        scores: (k,) in 0..1.
        classes: (k,) class indices of the model.
        boxes: (k, 4), left, top, width, height in pixels.
    """

    scores: Floats
    classes: npt.NDArray[np.int64]
    boxes: Floats


class DetectionMeter:
    """Average precision of joined outputs (n, queries, classes + 4).

    Args:
        spec: how scores are read.
        preprocessing: how images became inputs.
        objects: annotations of the images, in the same order as the images.

    Raises:
        LampqError: pycocotools is missing.
    """

    def __init__(self, spec: TaskSpec, preprocessing: Preprocessing, objects: Objects) -> None:
        self._spec = spec
        self._preprocessing = preprocessing
        self._objects = objects
        self._float: list[Detections] = []
        self._quantized: list[Detections] = []
        self._errors = ErrorMeter()
        self._kl: list[Floats] = []
        self._agreed = np.zeros(2, dtype=np.int64)
        self._ids: npt.NDArray[np.int64] | None = None
        _coco()

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`; its images follow the ones counted so far."""
        require_outputs(reference, quantized, 3, "scores and boxes of queries (n, queries, classes + 4)")
        if self._ids is None:
            self._ids = category_ids(self._spec, reference.shape[2] - 4, self._objects.categories)
        self._errors.add(reference, quantized)
        self._kl.append(detection_kl(reference, quantized, self._spec))
        self._agreed += agreement(reference, quantized, self._spec)
        truth = self._objects.images[batch.start : batch.start + len(batch.images)]
        for outputs, kept in ((reference, self._float), (quantized, self._quantized)):
            kept.extend(
                detections(own, image.size, self._preprocessing, self._spec)
                for own, image in zip(outputs, truth, strict=True)
            )

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        if self._ids is None:
            raise ValueError("no images were counted")
        images = self._objects.images[: len(self._float)]
        truth = _ground_truth(images, self._objects.categories)
        first, second = (_evaluated(truth, found, self._ids) for found in (self._float, self._quantized))
        drops = np.array([precision(a) - precision(b) for a, b in zip(_folds(first), _folds(second), strict=True)])
        own = _ground_truth(
            [_as_objects(found, image, self._ids) for found, image in zip(self._float, images, strict=True)],
            self._objects.categories,
        )
        to_float = _evaluated(own, self._quantized, self._ids)
        float_ap, quantized_ap = precision(first), precision(second)
        # Delete-a-group jackknife.
        variance = (len(drops) - 1) / max(len(drops), 1) * float(((drops - drops.mean()) ** 2).sum())
        same, total = (int(value) for value in self._agreed)
        named: dict[str, Any] = {"float": TopK(top1=float_ap, top5=None)}  # a keyword that is the name of a built-in
        return Accuracy(
            metric="AP",
            samples=len(images),
            **named,
            quantized=TopK(top1=quantized_ap, top5=None),
            drop_points=100 * (float_ap - quantized_ap),
            standard_error_points=100 * variance**0.5,
            agreement=same / total if total else 1.0,
            agreement_counts="detections of the same class and place",
            logit_sqnr_db=self._errors.sqnr_db,
            kl=float(np.concatenate(self._kl).mean()),
            scores={
                "AP50": (precision(first, 0.5), precision(second, 0.5)),
                "AP75": (precision(first, 0.75), precision(second, 0.75)),
                "AP to float": (None, precision(to_float)),
                "AP50 to float": (None, precision(to_float, 0.5)),
            },
        )


def split_outputs(outputs: Outputs) -> tuple[Floats, Floats]:
    """Split joined outputs into scores (..., classes) and boxes (..., 4), float64."""
    values = outputs.astype(np.float64)
    return values[..., :-4], values[..., -4:]


def probabilities(scores: Floats, spec: TaskSpec) -> Floats:
    """Return the probabilities of the classes, "no object" left out, (..., classes)."""
    if spec.background:
        rows = scores.reshape(-1, scores.shape[-1])
        result: Floats = np.exp(log_softmax(rows)).reshape(scores.shape)[..., :-1]
        return result
    return np.asarray(np.exp(-np.logaddexp(0, -scores)))


def detections(outputs: Outputs, size: tuple[int, int], preprocessing: Preprocessing, spec: TaskSpec) -> Detections:
    """Return the detections of one image in its own pixels, clipped to the image.

    Args:
        outputs: (queries, classes + 4).
        size: height and width of the image.
        preprocessing: how the image became an input.
        spec: how scores are read.
    """
    scores, boxes = split_outputs(outputs)
    chances = probabilities(scores, spec)
    if spec.background:
        query, kind = np.arange(len(chances)), chances.argmax(1)
    else:
        query, kind = (axis.ravel() for axis in np.indices(chances.shape))
    values = chances[query, kind]
    order = np.argsort(-values, kind="stable")[:MOST_DETECTIONS]
    query, kind = query[order], kind[order]
    height, width = preprocessing.size
    pixels = np.concatenate([boxes[query, :2] - boxes[query, 2:] / 2, boxes[query, 2:]], 1)
    placed = preprocessing.placement(*size).to_image(pixels * [width, height, width, height])
    low = np.clip(placed[:, :2], 0, [size[1], size[0]])
    high = np.clip(placed[:, :2] + placed[:, 2:], 0, [size[1], size[0]])
    return Detections(values[order], kind.astype(np.int64), np.concatenate([low, high - low], 1))


def detection_kl(reference: Outputs, quantized: Outputs, spec: TaskSpec) -> Floats:
    """Return the KL of the answers per image in nats, (n,): of the classes, and of the boxes as Gaussians."""
    (scores, boxes), (other, moved) = split_outputs(reference), split_outputs(quantized)
    if spec.background:
        rows = scores.shape[-1]
        kl = kl_divergence(scores.reshape(-1, rows), other.reshape(-1, rows)).reshape(scores.shape[:2])
    else:
        kl = bernoulli_kl(scores, other).sum(-1)
    chance = objectness(scores, spec)
    unit = BOX_DEVIATION * np.maximum(boxes[..., 2:], SMALLEST)
    change = (moved - boxes) / np.concatenate([unit, unit], -1)
    result: Floats = (kl + chance * (change**2).sum(-1) / 2).sum(1)
    return result


def objectness(scores: Floats, spec: TaskSpec) -> Floats:
    """Return the probability that a query is an object at all.

    That is any class but "no object", or the probability of the most likely class.
    """
    chances = probabilities(scores, spec)
    result: Floats = chances.sum(-1) if spec.background else chances.max(-1)
    return result


def agreement(reference: Outputs, quantized: Outputs, spec: TaskSpec) -> npt.NDArray[np.int64]:
    """Compare queries that are certain objects for either model: count those with the same answer, and all."""
    (scores, boxes), (other, moved) = split_outputs(reference), split_outputs(quantized)
    first, second = probabilities(scores, spec), probabilities(other, spec)
    sure = (first.max(-1) >= CERTAIN) & (second.max(-1) >= CERTAIN)
    either = (first.max(-1) >= CERTAIN) | (second.max(-1) >= CERTAIN)
    same = sure & (first.argmax(-1) == second.argmax(-1)) & (iou(boxes, moved) >= SAME_IOU)
    return np.array([same.sum(), either.sum()], dtype=np.int64)


def iou(first: Floats, second: Floats) -> Floats:
    """Compute the IoU of boxes (..., 4) given as centre and size."""
    low = np.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = np.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    shared = np.clip(high - low, 0, None).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared
    result: Floats = shared / np.maximum(union, 1e-12)
    return result


def category_ids(spec: TaskSpec, scores: int, categories: dict[int, str]) -> npt.NDArray[np.int64]:
    """Map each class of the model to a category; -1: none.

    Classes and categories are matched by name if the model's class names are known. Otherwise class i is category i if
    the ids fit (COCO), or the i-th category if both have the same number.

    Raises:
        LampqError: a category has no class.
    """
    count = scores - 1 if spec.background else scores
    ids = np.full(count, -1, dtype=np.int64)
    if len(spec.classes) == count:
        by_name = {name.lower(): i for i, name in enumerate(spec.classes)}
        missing = [name for name in categories.values() if name.lower() not in by_name]
        if missing:
            raise LampqError(
                f"the annotations have the category {missing[0]}, which is not among the model's {count} classes "
                f"({', '.join(spec.classes[:8])}{', ...' if count > 8 else ''})"
            )
        for key, name in categories.items():
            ids[by_name[name.lower()]] = key
    elif len(categories) == count:
        ids[:] = sorted(categories)
    elif max(categories) < count:
        for key in categories:
            ids[key] = key
    else:
        raise LampqError(f"the model has {count} classes, but the annotations have {len(categories)} categories")
    return ids


def precision(evaluated: COCOeval, threshold: float | None = None) -> float:
    """Return the AP over IoU 0.5 to 0.95, or at one of these thresholds; 0 if nothing is annotated."""
    table = evaluated.eval["precision"]
    if threshold is not None:
        table = table[np.isclose(evaluated.params.iouThrs, threshold)]
    counted = table[table > -1]
    return float(counted.mean()) if counted.size else 0.0


def _coco() -> tuple[type[COCO], type[COCOeval]]:
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415 -- an optional dependency
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise LampqError(
            "average precision needs pycocotools, which is not installed", hint="pip install 'lampq-onnx[detection]'"
        ) from error
    return COCO, COCOeval


def _ground_truth(images: Sequence[ImageObjects], categories: dict[int, str]) -> COCO:
    kind, _ = _coco()
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


def _evaluated(truth: COCO, found: Sequence[Detections], ids: npt.NDArray[np.int64]) -> COCOeval:
    _, kind = _coco()
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


def _nothing(truth: COCO) -> COCO:
    kind, _ = _coco()
    found = kind()
    found.dataset = {**truth.dataset, "annotations": []}
    found.createIndex()
    return found


def _folds(evaluated: COCOeval) -> list[COCOeval]:
    """Evaluate again without one group of images, for each group."""
    images = list(evaluated.params.imgIds)
    folds = min(FOLDS, len(images))
    if folds < 2:
        return [evaluated]
    cells = np.array(evaluated.evalImgs, dtype=object).reshape(-1, len(images))
    found = []
    for fold in range(folds):
        kept = [i for i in range(len(images)) if i % folds != fold]
        part = copy(evaluated)
        part.params = copy(evaluated.params)
        part.params.imgIds = [images[i] for i in kept]
        part._paramsEval = copy(part.params)
        part.evalImgs = list(cells[:, kept].ravel())
        with contextlib.redirect_stdout(io.StringIO()):
            part.accumulate()
        found.append(part)
    return found


def _as_objects(found: Detections, image: ImageObjects, ids: npt.NDArray[np.int64]) -> ImageObjects:
    """Return the certain detections as annotations."""
    kept = (found.scores >= CERTAIN) & (ids[found.classes] >= 0) & (found.boxes[:, 2:] > 0).all(1)
    boxes = found.boxes[kept]
    return ImageObjects(
        image.size, boxes, ids[found.classes[kept]], boxes[:, 2:].prod(1), np.zeros(len(boxes), dtype=np.bool_)
    )
