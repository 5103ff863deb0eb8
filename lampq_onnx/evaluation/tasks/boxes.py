"""Answers of detectors: scores and boxes of a fixed set of queries, and how far two files' answers are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.evaluation.tasks.multi_label import bernoulli_kl
from lampq_onnx.measures.accuracy import kl_divergence, log_softmax
from lampq_onnx.measures.error_meter import Outputs
from lampq_onnx.measures.pairing import cheapest_pairs

Floats = npt.NDArray[np.float64]

MOST_DETECTIONS = 100
"""Detections per image that count, highest scores first, as in COCO's main figure."""

CERTAIN = 0.5
"""Score from which a detection of the float model counts as an object."""

SAME_IOU = 0.5
"""IoU from which two boxes belong to the same object."""

BOX_SCALE = 0.02
"""Scale of the Cauchy distributions of a box's centre and size, in units of its width and height: a shift of that size
lowers the IoU by about 0.04, so AP at strict overlaps feels it."""

SMALLEST = 0.01
"""Smallest width and height in those units, as shares of the input."""


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


def split_outputs(outputs: Outputs) -> tuple[Floats, Floats]:
    """Split joined outputs into scores (..., classes) and boxes (..., 4), float64."""
    values = outputs.astype(np.float64)
    return values[..., :-4], values[..., -4:]


def probabilities(scores: Floats, spec: TaskSpec) -> Floats:
    """Return the probabilities of the classes, "no object" left out, (..., classes)."""
    return _probabilities(scores, background=spec.background)


def _probabilities(scores: Floats, *, background: bool) -> Floats:
    if background:
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


def paired(reference: Outputs, quantized: Outputs, *, background: bool) -> npt.NDArray[np.int64]:
    """Say which query of the quantized model answers for each query of the reference, (n, queries).

    Detectors such as RT-DETR choose and sort their queries by scores, so that a query's number means nothing. Queries
    are paired so that the sum of their KLs is smallest. A detector with queries of its own keeps their order.
    """
    (scores, boxes), (other, moved) = split_outputs(reference), split_outputs(quantized)
    if background:
        own, rest = (log_softmax(part.reshape(-1, part.shape[-1])).reshape(part.shape) for part in (scores, other))
        chances = np.exp(own)
        costs = (chances * own).sum(-1)[:, :, None] - chances @ rest.transpose(0, 2, 1)
    else:
        yes, no = -np.logaddexp(0, -other), -np.logaddexp(0, other)
        chances = np.exp(-np.logaddexp(0, -scores))
        entropy = (chances * -np.logaddexp(0, -scores) - (1 - chances) * np.logaddexp(0, scores)).sum(-1)
        costs = entropy[:, :, None] - chances @ yes.transpose(0, 2, 1) - (1 - chances) @ no.transpose(0, 2, 1)
    weight = _objectness(scores, background=background)[..., None]
    for axis in range(4):
        change = (moved[:, None, :, axis] - boxes[:, :, None, axis]) / _unit(boxes)[..., axis, None]
        costs += weight * np.log1p(change**2 / 4)
    return cheapest_pairs(costs)


def detection_kl(reference: Outputs, quantized: Outputs, spec: TaskSpec) -> Floats:
    """Return the KL of the answers per image in nats, (n,): of the classes, and of the boxes as Cauchy distributions.

    Queries of the quantized outputs are in the reference's order, see `paired`.
    """
    (scores, boxes), (other, moved) = split_outputs(reference), split_outputs(quantized)
    if spec.background:
        rows = scores.shape[-1]
        kl = kl_divergence(scores.reshape(-1, rows), other.reshape(-1, rows)).reshape(scores.shape[:2])
    else:
        kl = bernoulli_kl(scores, other).sum(-1)
    chance = objectness(scores, spec)
    change = (moved - boxes) / _unit(boxes)
    result: Floats = (kl + chance * np.log1p(change**2 / 4).sum(-1)).sum(1)
    return result


def _unit(boxes: Floats) -> Floats:
    """Scales of the distributions of boxes (..., 4)."""
    unit = BOX_SCALE * np.maximum(boxes[..., 2:], SMALLEST)
    return np.concatenate([unit, unit], -1)


def objectness(scores: Floats, spec: TaskSpec) -> Floats:
    """Return the probability that a query is an object at all.

    That is any class but "no object", or the probability of the most likely class.
    """
    return _objectness(scores, background=spec.background)


def _objectness(scores: Floats, *, background: bool) -> Floats:
    chances = _probabilities(scores, background=background)
    result: Floats = chances.sum(-1) if background else chances.max(-1)
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
