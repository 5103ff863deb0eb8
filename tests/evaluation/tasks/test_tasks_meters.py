"""Scores of every task against numbers counted another way."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch, Preprocessing
from lampq_onnx.data.objects import ImageObjects, Objects
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.boxes import BOX_SCALE, detection_kl, detections, iou
from lampq_onnx.evaluation.tasks.detection import DetectionMeter, category_ids
from lampq_onnx.evaluation.tasks.embedding import EmbeddingMeter, nearest
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.evaluation.tasks.multi_label import MultiLabelMeter, bernoulli_kl
from lampq_onnx.evaluation.tasks.segmentation import SegmentationMeter

SPEC = TaskSpec(kind="detection", outputs=("logits", "pred_boxes"), classes=("cat", "dog"))
SQUARE = Preprocessing(
    size=(100, 100), crop_pct=1, crop_mode="squash", interpolation="bilinear", mean=(0.5,), std=(0.5,), channels=1
)


def batch(count: int, start: int = 0) -> Batch:
    return Batch(np.zeros((count, 1, 2, 2), np.float32), None, start)


def counted(meter: Meter, reference: np.ndarray, quantized: np.ndarray, step: int = 2) -> Meter:
    for start in range(0, len(reference), step):
        part = slice(start, start + step)
        meter.add(reference[part], quantized[part], batch(len(reference[part]), start))
    return meter


def pair(*shape: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.normal(size=shape).astype(np.float32)
    return reference, (reference + noise * random.normal(size=shape)).astype(np.float32)


def test_multi_label_compares_sets_of_classes() -> None:
    reference, quantized = pair(7, 5)
    found = counted(MultiLabelMeter(), reference, quantized).result()
    sets = [[{j for j in range(5) if row[j] > 0} for row in values] for values in (reference, quantized)]
    jaccard = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(*sets, strict=True)]
    assert found.quantized.top1 == pytest.approx(np.mean(jaccard))
    assert found.agreement == pytest.approx(np.mean([a == b for a, b in zip(*sets, strict=True)]))
    p, q = (1 / (1 + np.exp(-values.astype(np.float64))) for values in (reference, quantized))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1).mean()
    assert found.kl == pytest.approx(kl)
    assert found.logit_sqnr_db == pytest.approx(
        10 * np.log10((reference**2).sum() / ((reference - quantized) ** 2).sum()), rel=1e-5
    )


def test_embeddings_are_compared_by_direction_alone() -> None:
    reference, quantized = pair(9, 6)
    found = counted(EmbeddingMeter(), reference, 5 * quantized).result()
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(reference, quantized, strict=True)]
    assert found.quantized.top1 == pytest.approx(np.mean(cosines), rel=1e-6)
    assert found.kl == pytest.approx(100 * (1 - np.mean(cosines)), rel=1e-5)
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    others = [max((j for j in range(9) if j != i), key=lambda j, i=i: unit[i] @ unit[j]) for i in range(9)]
    assert nearest(unit.astype(np.float64), chunk=4).tolist() == others


def test_segmentation_counts_pixels_and_classes() -> None:
    reference, quantized = pair(5, 4, 3, 6)
    found = counted(SegmentationMeter(), reference, quantized).result()
    first, second = reference.argmax(1), quantized.argmax(1)
    ious = [((first == c) & (second == c)).sum() / ((first == c) | (second == c)).sum() for c in range(4)]
    assert found.quantized.top1 == pytest.approx(np.mean(ious))
    assert found.agreement == pytest.approx((first == second).mean())


@pytest.mark.parametrize("meter", [MultiLabelMeter, EmbeddingMeter, SegmentationMeter])
def test_outputs_of_another_shape_or_nan_are_refused(meter: type) -> None:
    axes = 4 if meter is SegmentationMeter else 2
    good = np.zeros((2,) * axes, np.float32)
    with pytest.raises(LampqError, match="shapes"):
        meter().add(good[0], good[0], batch(2))
    with pytest.raises(LampqError, match="quantized file answers with NaN"):
        meter().add(good, np.full_like(good, np.nan), batch(2))


def outputs(*queries: tuple[list[float], list[float]]) -> np.ndarray:
    return np.array([[*scores, *box] for scores, box in queries], np.float32)[None]


def objects(*images: list[tuple[int, list[float]]], size: tuple[int, int] = (50, 200)) -> Objects:
    found = []
    for image in images:
        boxes = np.array([box for _, box in image], float).reshape(-1, 4)
        ids = np.array([key for key, _ in image], np.int64)
        found.append(ImageObjects(size, boxes, ids, boxes[:, 2:].prod(1), np.zeros(len(ids), bool)))
    return Objects({3: "dog", 8: "cat"}, tuple(found))


CAT, DOG, NOTHING = [6.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 6.0]
LEFT, RIGHT = [0.25, 0.5, 0.2, 0.4], [0.75, 0.5, 0.2, 0.4]
"""Centre and size as shares; of 50 x 200 pixels these are 20 high and 40 wide."""


def test_average_precision_counts_in_pixels_of_the_image() -> None:
    truth = objects([(8, [30, 15, 40, 20]), (3, [130, 15, 40, 20])], [(8, [30, 15, 40, 20])])
    right = outputs((CAT, LEFT), (DOG, RIGHT), (NOTHING, LEFT))
    second = outputs((CAT, LEFT), (NOTHING, RIGHT), (NOTHING, LEFT))
    meter = DetectionMeter(SPEC, SQUARE, truth)
    # The quantized model shifts the first image's cat by half of its width: an IoU of a third.
    shifted = right.copy()
    shifted[0, 0, 3] += 0.1
    meter.add(right, shifted, batch(1, 0))
    meter.add(second, second, batch(1, 1))
    found = meter.result()
    assert found.metric == "AP"
    assert found.float_.top1 == pytest.approx(1.0)
    # Dogs: 1. Cats: the two sure ones are wrong and right, and the first image's "nothing" at the cat's place is right
    # with a low score, so that two of the three highest scores are right: 2/3 at every recall.
    assert found.quantized.top1 == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)
    assert found.scores["AP50 to float"][1] == pytest.approx(found.quantized.top1)
    assert found.scores["AP to float"][0] is None
    assert found.agreement == pytest.approx(2 / 3)
    assert found.samples == 2


def test_detections_without_annotations_or_answers_give_no_precision() -> None:
    meter = DetectionMeter(SPEC, SQUARE, objects([], []))
    nothing = outputs((NOTHING, LEFT))
    meter.add(nothing, nothing, batch(1, 0))
    meter.add(nothing, nothing, batch(1, 1))
    assert meter.result().quantized.top1 == 0


def test_the_distance_of_boxes_counts_as_much_as_the_query_is_an_object() -> None:
    reference, moved = outputs((CAT, LEFT), (NOTHING, RIGHT)), outputs((CAT, LEFT), (NOTHING, RIGHT))
    moved[0, :, 3] += 0.02  # a tenth of the width
    # The KL of two Cauchy distributions, integrated over the angle that one of them is even in.
    angles = (np.arange(200_000) + 0.5) / 200_000 - 0.5
    drawn = BOX_SCALE * np.tan(np.pi * angles)
    kl = float(np.mean(np.log1p(((drawn - 0.1) / BOX_SCALE) ** 2) - np.log1p((drawn / BOX_SCALE) ** 2)))
    chance = [1 - np.exp(s[2]) / np.exp(s).sum() for s in (np.array(CAT), np.array(NOTHING))]
    assert detection_kl(reference, moved, SPEC)[0] == pytest.approx(kl * sum(chance), rel=1e-4)
    sigmoid = SPEC.model_copy(update={"background": False})
    sure = [max(1 / (1 + np.exp(-np.array(s)))) for s in (CAT, NOTHING)]
    assert detection_kl(reference, moved, sigmoid)[0] == pytest.approx(kl * sum(sure), rel=1e-4)
    other = outputs((DOG, LEFT), (NOTHING, RIGHT))
    assert detection_kl(reference, other, sigmoid)[0] == pytest.approx(bernoulli_kl(np.array(CAT), np.array(DOG)).sum())


def test_letterboxed_boxes_come_back_to_the_image() -> None:
    letterbox = SQUARE.model_copy(update={"crop_mode": "letterbox"})
    # 50 x 200 pixels become 25 x 100, at the top.
    found = detections(outputs((CAT, [0.25, 0.125, 0.2, 0.1]))[0], (50, 200), letterbox, SPEC)
    assert found.boxes[0] == pytest.approx([30, 15, 40, 20])
    assert found.classes.tolist() == [0]


def test_sigmoid_detectors_give_every_class_of_a_query() -> None:
    sigmoid = SPEC.model_copy(update={"background": False})
    found = detections(outputs(([2.0, 1.0], LEFT))[0], (50, 200), SQUARE, sigmoid)
    assert found.classes.tolist() == [0, 1]
    assert found.scores == pytest.approx(1 / (1 + np.exp([-2.0, -1.0])))


def test_iou_of_centred_boxes() -> None:
    assert iou(np.array(LEFT), np.array(LEFT)) == pytest.approx(1)
    assert iou(np.array(LEFT), np.array(RIGHT)) == 0
    assert iou(np.array([0.5, 0.5, 0.2, 0.2]), np.array([0.6, 0.5, 0.2, 0.2])) == pytest.approx(1 / 3)


def test_classes_find_their_categories() -> None:
    names = {3: "dog", 8: "cat"}
    assert category_ids(SPEC, 3, names).tolist() == [8, 3]
    unnamed = SPEC.model_copy(update={"classes": ()})
    assert category_ids(unnamed, 3, names).tolist() == [3, 8]
    assert category_ids(unnamed, 11, names).tolist() == [-1, -1, -1, 3, -1, -1, -1, -1, 8, -1]
    with pytest.raises(LampqError, match="2 categories"):
        category_ids(unnamed, 6, names)
    with pytest.raises(LampqError, match="category bird"):
        category_ids(SPEC, 3, {1: "bird"})
