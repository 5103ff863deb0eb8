"""Scores of one logit and of real outputs against scikit-learn and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.artifacts.task import TaskName, TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError, ScoreError
from lampq_onnx.evaluation.tasks.binary import BinaryMeter
from lampq_onnx.evaluation.tasks.dense_regression import DenseRegressionMeter
from lampq_onnx.evaluation.tasks.labels import task_of_labels
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.evaluation.tasks.regression import RegressionMeter
from lampq_onnx.evaluation.tasks.spread import output_spread


def pair(*shape: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.normal(size=shape).astype(np.float32)
    return reference, (reference + noise * random.normal(size=shape)).astype(np.float32)


def counted(meter: Meter, reference: np.ndarray, quantized: np.ndarray, **labels: np.ndarray) -> Accuracy:
    for start in range(0, len(reference), 3):
        part = slice(start, start + 3)
        own = {name: values[part] for name, values in labels.items()}
        images = np.zeros((len(reference[part]), 0), np.float32)
        meter.add(reference[part], quantized[part], Batch(images, own.get("labels"), start, own.get("targets")))
    return meter.result()


def test_decisions_of_one_logit() -> None:
    from sklearn import metrics

    reference, quantized = pair(40, 1, noise=1.0)
    labels = np.random.default_rng(1).integers(0, 2, 40)
    found = counted(BinaryMeter(), reference, quantized, labels=labels)
    first, second = (values[:, 0] > 0 for values in (reference, quantized))
    assert found.metric == "accuracy at 0.5"
    assert found.float_ == TopK(top1=(first == labels).mean(), top5=None)
    assert found.quantized.top1 == (second == labels).mean()
    assert found.agreement == (first == second).mean() < 1
    p, q = (1 / (1 + np.exp(-values[:, 0].astype(np.float64))) for values in (reference, quantized))
    cross, own = (
        np.mean(
            [
                metrics.log_loss([0, 1], [b, b], sample_weight=[1 - a, a], normalize=False)
                for a, b in zip(p, r, strict=True)
            ]
        )
        for r in (q, p)
    )
    assert found.kl == pytest.approx(cross - own)
    assert counted(BinaryMeter(), reference, quantized, targets=labels[:, None].astype(float)) == found
    unlabelled = counted(BinaryMeter(), reference, quantized)
    assert (unlabelled.float_.top1, unlabelled.quantized.top1) == (1, found.agreement)


def test_other_labels_than_0_and_1_are_no_decisions() -> None:
    reference, quantized = pair(3, 1)
    with pytest.raises(LampqError, match="an image has 2"):
        counted(BinaryMeter(), reference, quantized, labels=np.array([0, 1, 2]))


@pytest.mark.parametrize("outputs", [1, 3])
def test_real_outputs_are_scored_against_labels(outputs: int) -> None:
    from sklearn import metrics

    reference, quantized = pair(20, outputs)
    for values in (reference, quantized):
        values[:, 0] *= 50
    truth = np.random.default_rng(2).normal(size=(20, outputs))
    spread = reference.astype(np.float64).std(0)
    spec = TaskSpec(kind="regression", spread=output_spread(reference))
    assert spec.spread == pytest.approx(spread)
    found = counted(RegressionMeter(spec), reference, quantized, targets=truth if outputs > 1 else truth[:, 0])
    assert found.metric == "R2"
    assert found.float_.top1 == pytest.approx(metrics.r2_score(truth, reference))
    assert found.quantized.top1 == pytest.approx(metrics.r2_score(truth, quantized))
    assert found.drop_points == pytest.approx(
        100 * (metrics.r2_score(truth, reference) - metrics.r2_score(truth, quantized))
    )
    assert found.scores["R2 to float"][1] == pytest.approx(metrics.r2_score(reference, quantized), rel=1e-5)
    mae = [metrics.mean_absolute_error(truth / spread, values / spread) for values in (reference, quantized)]
    assert found.scores["MAE in units of the spread"] == pytest.approx(tuple(mae))
    change = np.abs(reference - quantized) / spread
    assert found.kl == pytest.approx((change**2).sum(1).mean() / 2, rel=1e-5)
    assert found.agreement == pytest.approx(np.clip(1 - change, 0, None).mean(), rel=1e-5)


def test_real_outputs_without_labels_are_scored_against_float() -> None:
    from sklearn import metrics

    reference, quantized = pair(20, 2)
    found = counted(RegressionMeter(TaskSpec(kind="regression", spread=(1, 1))), reference, quantized)
    assert (found.metric, found.float_.top1) == ("R2 to float", 1)
    assert found.quantized.top1 == pytest.approx(metrics.r2_score(reference, quantized), rel=1e-5)


def test_one_value_on_all_images_has_no_r2_and_no_spread() -> None:
    same = np.ones((4, 2), np.float32)
    with pytest.raises(LampqError, match="R2 cannot be measured"):
        counted(RegressionMeter(TaskSpec(kind="regression", spread=(1, 1))), same, 2 * same)
    for outputs in (same, same[:1] * 3):
        with pytest.raises(LampqError, match="no unit"):
            output_spread(outputs)
    with pytest.raises(LampqError, match=r"spread of 2 output\(s\)"):
        counted(RegressionMeter(TaskSpec(kind="regression", spread=(1,))), same, same)


@pytest.mark.parametrize("shape", [(7, 1, 4, 6), (7, 4, 6)])
@pytest.mark.parametrize("labelled", [True, False])
def test_depth_is_scored_by_ratios(shape: tuple[int, ...], labelled: bool) -> None:
    reference, quantized = (1 + np.abs(values) for values in pair(*shape))
    truth = (reference * np.random.default_rng(3).uniform(0.7, 1.4, shape)).astype(np.float64)
    truth[:, ..., 0] = np.nan
    spec = TaskSpec(kind="dense-regression", spread=output_spread(reference))
    assert spec.spread == pytest.approx([reference.std()])
    meter = DenseRegressionMeter(spec)
    found = counted(meter, reference, quantized, **({"targets": truth.reshape(7, 4, 6)} if labelled else {}))
    wanted, known = (truth, ~np.isnan(truth)) if labelled else (reference, np.ones(shape, bool))
    t, f, q = (values[known] for values in (wanted, reference, quantized))
    right = [(np.maximum(values / t, t / values) < 1.25).mean() for values in (f, q)]
    assert (found.float_.top1, found.quantized.top1) == pytest.approx(tuple(right))
    name = "absolute relative error" + ("" if labelled else " to float")
    assert found.scores[name][1] == pytest.approx((np.abs(q - t) / t).mean())
    change = np.abs(reference - quantized) / reference.std()
    assert found.kl == pytest.approx((change**2).mean() / 2, rel=1e-5)
    assert found.agreement == pytest.approx(np.clip(1 - change, 0, None).mean(), rel=1e-5)


def test_a_report_cannot_call_a_change_nothing() -> None:
    good = {"samples": 12, "float": TopK(top1=1, top5=None), "quantized": TopK(top1=1, top5=None), "drop_points": 0}
    good |= {"standard_error_points": 0}
    with pytest.raises(ScoreError, match=r"differ by 10.0 %"):
        Accuracy(**good, agreement=1, kl=0, logit_sqnr_db=20)
    assert Accuracy(**good, agreement=1, kl=0, logit_sqnr_db=None).agreement_text == "100.00 %"
    said = Accuracy(**good, agreement=1, kl=1e-7, logit_sqnr_db=20)
    assert said.agreement_text == "all of 12 images (outputs 10.0 % off)"
    assert said.kl_text == "1e-07"
    assert Accuracy(**good, agreement=0.99999, kl=1, logit_sqnr_db=20).agreement_text == "99.99 %"


@pytest.mark.parametrize(
    ("labels", "outputs", "task"),
    [
        ([0, 1, 1], 1, "binary"), ([0.0, 1.0], 1, "binary"), ([0.2, 0.9], 1, "regression"),
        ([1, 2, 3], 1, "regression"), ([0, 0], 1, None), ([1, 2], 1, None),
        ([[0, 1], [1, 1]], 2, "multi-label"), ([[0, 1.5], [1, 1]], 2, "regression"),
        ([0, 1, 2], 4, None), (None, 1, None),
    ],
)  # fmt: skip
def test_labels_tell_the_task(labels: list[object] | None, outputs: int, task: TaskName | None) -> None:
    found, why = task_of_labels(None if labels is None else np.array(labels, float), outputs)
    assert found == task
    assert bool(why) == (task is None)
