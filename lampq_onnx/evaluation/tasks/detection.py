"""Score detectors by COCO's average precision, against annotations and against the float model's detections.

Detectors of the DETR family give a fixed set of queries, so there is no non-maximum suppression: every query is one
detection (softmax with a "no object" class), or every query and class (sigmoids).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch, Preprocessing
from lampq_onnx.data.objects import ImageObjects, Objects
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.average_precision import coco, evaluate, folds, ground_truth, precision
from lampq_onnx.evaluation.tasks.boxes import CERTAIN, Detections, Floats, agreement, detection_kl, detections, paired
from lampq_onnx.evaluation.tasks.meter import require_outputs
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs


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
        coco()

    def add(self, reference: Outputs, quantized: Outputs, batch: Batch) -> None:
        """Count a batch, see `Meter`; its images follow the ones counted so far."""
        require_outputs(reference, quantized, 3, "scores and boxes of queries (n, queries, classes + 4)")
        if self._ids is None:
            self._ids = category_ids(self._spec, reference.shape[2] - 4, self._objects.categories)
        ordered = self.in_order(reference, quantized)
        self._errors.add(reference, ordered)
        self._kl.append(detection_kl(reference, ordered, self._spec))
        for own, *others in zip(reference, quantized, ordered, strict=True):
            counts = [agreement(own[None], other[None], self._spec) for other in others]
            # A query that moved far may be paired with another one: the order as it was then agrees better.
            self._agreed += max(counts, key=lambda pair: pair[0] / max(pair[1], 1))
        truth = self._objects.images[batch.start : batch.start + len(batch.images)]
        for outputs, kept in ((reference, self._float), (quantized, self._quantized)):
            kept.extend(
                detections(own, image.size, self._preprocessing, self._spec)
                for own, image in zip(outputs, truth, strict=True)
            )

    def in_order(self, reference: Outputs, quantized: Outputs) -> Outputs:
        """Bring the queries of the quantized outputs into the reference's order; they may have been sorted."""
        pairs = paired(reference, quantized, background=self._spec.background)
        return np.take_along_axis(quantized, pairs[..., None], 1)

    def result(self) -> Accuracy:
        """Return the figures, see `Meter`."""
        if self._ids is None:
            raise ValueError("no images were counted")
        images = self._objects.images[: len(self._float)]
        truth = ground_truth(images, self._objects.categories)
        first, second = (evaluate(truth, found, self._ids) for found in (self._float, self._quantized))
        drops = np.array([precision(a) - precision(b) for a, b in zip(folds(first), folds(second), strict=True)])
        own = ground_truth(
            [_as_objects(found, image, self._ids) for found, image in zip(self._float, images, strict=True)],
            self._objects.categories,
        )
        to_float = evaluate(own, self._quantized, self._ids)
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


def _as_objects(found: Detections, image: ImageObjects, ids: npt.NDArray[np.int64]) -> ImageObjects:
    """Return the certain detections as annotations."""
    kept = (found.scores >= CERTAIN) & (ids[found.classes] >= 0) & (found.boxes[:, 2:] > 0).all(1)
    boxes = found.boxes[kept]
    return ImageObjects(
        image.size, boxes, ids[found.classes[kept]], boxes[:, 2:].prod(1), np.zeros(len(boxes), dtype=np.bool_)
    )
