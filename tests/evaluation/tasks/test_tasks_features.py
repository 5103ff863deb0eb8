"""Scores of features, sequences and several outputs, against numbers counted another way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.features import FeaturesMeter, neighbours_of
from lampq_onnx.evaluation.tasks.measured import assumed, measured, needs_measuring
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.evaluation.tasks.meters import METERS
from lampq_onnx.evaluation.tasks.sequence import SequenceMeter, decoded, edit_distance
from lampq_onnx.evaluation.tasks.several import SeveralMeter, parts_of

FEATURES = TaskSpec(kind="features")


def counted(meter: Meter, reference: np.ndarray, quantized: np.ndarray, targets: np.ndarray | None = None) -> Meter:
    for start in range(0, len(reference), 3):
        part = slice(start, start + 3)
        own = None if targets is None else targets[part]
        labels = np.zeros(len(reference[part]), np.int64)
        batch = Batch(np.zeros((len(reference[part]), 1, 2, 2), np.float32), labels, start, own)
        meter.add(reference[part], quantized[part], batch)
    return meter


def pair(*shape: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = (random.normal(size=shape) + 2).astype(np.float32)
    return reference, (reference + noise * random.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(13, 4, 6), (13, 6), (13, 6, 2, 3), (13, 2, 2, 6)])
def test_features_of_any_shape_are_scored_channel_by_channel(shape: tuple[int, ...]) -> None:
    reference, quantized = pair(*shape)
    axis = 1 if shape == (13, 6, 2, 3) else len(shape) - 1
    spec = measured(FEATURES, reference)
    others = tuple(a for a in range(len(shape)) if a != axis)
    assert spec.spread == pytest.approx(reference.astype(np.float64).std(others), rel=1e-5)
    found = counted(FeaturesMeter(spec), reference, quantized).result()
    first, second = (np.moveaxis(v.astype(np.float64), axis, -1).reshape(13, -1, 6) for v in (reference, quantized))
    cosines = [
        np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x, y, strict=True)])
        for x, y in zip(first, second, strict=True)
    ]
    assert found.quantized.top1 == pytest.approx(np.mean(cosines))
    kl = np.mean(((first - second) ** 2 / np.array(spec.spread) ** 2).sum(-1) / 2)
    assert found.kl == pytest.approx(kl)
    sets = []
    for values in (first, second):
        means = values.mean(1) - values.mean((0, 1))
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        sets.append(
            [
                set(sorted((j for j in range(13) if j != i), key=lambda j, i=i: -unit[i] @ unit[j])[:5])
                for i in range(13)
            ]
        )
    assert found.agreement == pytest.approx(np.mean([len(a & b) / 5 for a, b in zip(*sets, strict=True)]))
    assert found.agreement < 1


def test_the_score_of_features_falls_with_the_size_of_the_damage() -> None:
    reference = pair(20, 4, 6)[0]
    spec = measured(FEATURES, reference)
    scores = []
    for noise in (0.0, 0.05, 0.3, 1.0):
        found = counted(FeaturesMeter(spec), *pair(20, 4, 6, noise=noise)).result()
        scores.append((found.quantized.top1, found.agreement, -found.kl))
    assert scores[0] == (pytest.approx(1), 1, 0)
    assert all(a > b for one, other in itertools.pairwise(scores) for a, b in zip(one, other, strict=True))


def test_a_dead_channel_has_a_unit_and_constant_features_are_refused() -> None:
    reference = pair(9, 4)[0]
    reference[:, 2] = 0.5
    spread = measured(FEATURES, reference).spread
    assert spread[2] == pytest.approx(0.01 * np.sqrt(np.mean(reference.astype(np.float64).std(0) ** 2)), rel=1e-5)
    with pytest.raises(LampqError, match="the same on all 9 calibration images"):
        measured(FEATURES, np.ones((9, 4), np.float32))
    with pytest.raises(LampqError, match=r"needs the spread of 4 output\(s\), but the file has 0"):
        counted(FeaturesMeter(FEATURES), reference, reference)


def test_neighbours_are_at_most_half_of_the_other_images() -> None:
    assert [neighbours_of(n) for n in (1, 2, 3, 8, 11, 1000)] == [0, 0, 1, 3, 5, 5]


def scores_of(rows: list[list[int]], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.array(rows)] * 4


def test_sequences_are_decoded_as_ctc_does() -> None:
    rows = [[0, 1, 1, 0, 1, 2], [2, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert decoded(scores_of(rows, 3), 0) == [(1, 1, 2), (2,), ()]
    spec = measured(TaskSpec(kind="sequence"), scores_of(rows, 3))
    assert spec.blank == 0
    wrong = [[0, 1, 1, 0, 0, 2], [2, 2, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    truth = np.array([[1, 1, 2], [2, -1, -1], [2, -1, np.nan]])
    found = counted(SequenceMeter(spec), scores_of(rows, 3), scores_of(wrong, 3), truth).result()
    assert (found.metric, found.float_.top1, found.quantized.top1) == ("sequences right", 2 / 3, 1 / 3)
    assert found.agreement == 1 / 3
    # 5 true classes; 1 is missing in the float model's answers, and 1 more and 1 wrong one in the quantized one's.
    assert found.scores["character error rate"] == (pytest.approx(1 / 5), pytest.approx(2 / 5))
    same = counted(SequenceMeter(spec), scores_of(rows, 3), scores_of(wrong, 3)).result()
    assert same.quantized.top1 == pytest.approx(np.mean([1 - 1 / 3, 1, 0]))


def test_the_edit_distance_is_that_of_all_alignments() -> None:
    def slow(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = (tuple(int(v) for v in random.integers(0, 3, random.integers(0, 5))) for _ in "ab")
        assert edit_distance(a, b) == slow(a, b)


def test_several_outputs_are_split_and_their_divergences_added() -> None:
    parts = (TaskSpec(outputs=("logits",), shape=(5,)), TaskSpec(kind="features", outputs=("tokens",), shape=(4, 6)))
    spec = TaskSpec(kind="several", outputs=("logits", "tokens"), parts=parts)
    tokens, logits = pair(13, 4, 6), pair(13, 5)
    joined = [np.concatenate([a, b.reshape(13, -1)], 1) for a, b in zip(logits, tokens, strict=True)]
    for part, own in zip(parts_of(joined[0], [part.shape for part in parts]), (logits[0], tokens[0]), strict=True):
        np.testing.assert_array_equal(part, own)
    assert needs_measuring(spec)
    known = measured(spec, joined[0])
    assert known.parts[1].spread == measured(FEATURES, tokens[0]).spread
    assert assumed(spec, joined[0]).parts[1].spread == (1.0,) * 6
    meters = [METERS[part.kind](part) for part in known.parts]
    found = counted(SeveralMeter(known, meters), *joined).result()
    alone = [counted(METERS[p.kind](p), *own).result() for p, own in zip(known.parts, (logits, tokens), strict=True)]
    assert found.kl == pytest.approx(sum(own.kl for own in alone))
    assert found.agreement == pytest.approx(np.mean([own.agreement for own in alone]))
    assert found.quantized.top1 == alone[0].quantized.top1
    assert found.scores["tokens: cosine to float"] == (1.0, alone[1].quantized.top1)


def test_outputs_that_differ_only_in_their_last_axis_are_joined_along_it() -> None:
    first, second = pair(3, 4, 2)[0], pair(3, 4, 5)[0]
    found = parts_of(np.concatenate([first, second], -1), [(4, 2), (4, 5)])
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_array_equal(found[1], second)
