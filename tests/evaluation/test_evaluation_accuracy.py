from __future__ import annotations

import math

import numpy as np
import pytest

from lampq_onnx.artifacts.report import Accuracy, Fidelity, Latency, LayerReport, Report, TopK
from lampq_onnx.data import Batch
from lampq_onnx.errors import GateError, LampqError, UsageError
from lampq_onnx.evaluation.gates import (
    EXCESS_BOUND,
    EXCESS_IMAGES,
    LAYER_BOUND,
    gate_limits,
    problems_of,
    require_gates,
)
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES, measure_accuracy, not_measured
from lampq_onnx.evaluation.tasks.embedding import EmbeddingMeter
from lampq_onnx.evaluation.tasks.multi_label import MultiLabelMeter
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.measures.error_meter import ErrorMeter


def drawn(n: int = 200, classes: int = 12, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    reference = rng.normal(size=(n, classes)) * 2
    reference[np.arange(n), labels] += 2
    quantized = reference + noise * rng.normal(size=(n, classes))
    return reference.astype(np.float32), quantized.astype(np.float32), labels.astype(np.int64)


def by_hand(reference: np.ndarray, quantized: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """One image at a time, in Python numbers."""
    n = len(labels)
    counts = dict.fromkeys(("float1", "float5", "quantized1", "quantized5", "agree"), 0)
    changes, kl, signal, noise = [], 0.0, 0.0, 0.0
    for x, y, label in zip(reference.tolist(), quantized.tolist(), labels.tolist(), strict=True):
        order_x = sorted(range(len(x)), key=lambda k: -x[k])
        order_y = sorted(range(len(y)), key=lambda k: -y[k])
        counts["float1"] += order_x[0] == label
        counts["quantized1"] += order_y[0] == label
        counts["float5"] += label in order_x[:5]
        counts["quantized5"] += label in order_y[:5]
        counts["agree"] += order_x[0] == order_y[0]
        changes.append((order_x[0] == label) - (order_y[0] == label))
        p = [math.exp(v) / math.fsum(math.exp(u) for u in x) for v in x]
        q = [math.exp(v) / math.fsum(math.exp(u) for u in y) for v in y]
        kl += math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        signal += math.fsum(v * v for v in x)
        noise += math.fsum((v - w) ** 2 for v, w in zip(x, y, strict=True))
    mean = sum(changes) / n
    deviation = math.sqrt(sum((c - mean) ** 2 for c in changes) / n)
    return {key: value / n for key, value in counts.items()} | {
        "drop": 100 * mean,
        "error": 100 * deviation / math.sqrt(n),
        "kl": kl / n,
        "sqnr": 10 * math.log10(signal / noise),
        "relative": math.sqrt(noise / signal),
    }


@pytest.mark.parametrize("noise", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 7, 200])
def test_figures_by_hand(noise: float, batch: int) -> None:
    reference, quantized, labels = drawn(noise=noise)
    meter = AccuracyMeter()
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        meter.add(reference[part], quantized[part], labels[part])
    found, wanted = meter.result(), by_hand(reference, quantized, labels)
    assert found.samples == 200
    assert found.float_.top1 == pytest.approx(wanted["float1"])
    assert found.float_.top5 == pytest.approx(wanted["float5"])
    assert found.quantized.top1 == pytest.approx(wanted["quantized1"])
    assert found.quantized.top5 == pytest.approx(wanted["quantized5"])
    assert found.agreement == pytest.approx(wanted["agree"])
    assert found.drop_points == pytest.approx(wanted["drop"])
    assert found.standard_error_points == pytest.approx(wanted["error"])
    assert found.kl == pytest.approx(wanted["kl"])
    assert found.logit_sqnr_db == pytest.approx(wanted["sqnr"], abs=1e-6)
    assert meter.relative_error == pytest.approx(wanted["relative"])


def test_the_standard_error_is_that_of_the_drop() -> None:
    """Against the spread of the drop over resampled images."""
    reference, quantized, labels = drawn(n=400, noise=2.0)
    meter = AccuracyMeter()
    meter.add(reference, quantized, labels)
    rng = np.random.default_rng(1)
    changes = (reference.argmax(1) == labels).astype(float) - (quantized.argmax(1) == labels)
    drops = [100 * changes[rng.integers(0, 400, 400)].mean() for _ in range(2000)]
    assert meter.result().standard_error_points == pytest.approx(np.std(drops), rel=0.06)


def test_equal_models() -> None:
    reference, _, labels = drawn()
    meter = AccuracyMeter()
    meter.add(reference, reference, labels)
    result = meter.result()
    assert result.logit_sqnr_db is None
    assert result.kl == pytest.approx(0, abs=1e-15)
    assert result.agreement == 1
    assert result.drop_points == result.standard_error_points == meter.relative_error == 0


def test_large_logits_do_not_overflow() -> None:
    reference, quantized, labels = drawn()
    meter = AccuracyMeter()
    meter.add(reference * np.float32(1e4), quantized * np.float32(1e4), labels)
    assert math.isfinite(meter.result().kl)


def test_fewer_than_five_classes() -> None:
    reference, quantized, labels = drawn(classes=3)
    meter = AccuracyMeter()
    meter.add(reference, quantized, labels)
    assert meter.result().float_.top5 == meter.result().quantized.top5 == 1


def test_nothing_counted() -> None:
    with pytest.raises(ValueError, match="no images"):
        AccuracyMeter().result()


# validation


class Answers:
    """A runner that looks logits up by the number that is written in each image."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits
        self.seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        return self.logits[images[:, 0, 0, 0].astype(int)]


def batches(labels: np.ndarray | None, n: int, size: int) -> list[Batch]:
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    return [Batch(images[s : s + size], None if labels is None else labels[s : s + size], s) for s in range(0, n, size)]


def relative(quantized: np.ndarray, reference: np.ndarray) -> float:
    difference = quantized.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))


def test_excess_errors() -> None:
    n = 600
    reference, plain, labels = drawn(n=n, noise=0.5)
    rng = np.random.default_rng(5)
    optimized = plain + rng.normal(size=plain.shape).astype(np.float32) * 0.4
    simulated = plain + rng.normal(size=plain.shape).astype(np.float32) * 0.1
    runners = [Answers(logits) for logits in (reference, optimized, plain, simulated)]
    found = measure_accuracy(*runners, batches(labels, n, 100), total=n)
    accuracy, compared = found.accuracy, found.compared
    assert compared == 300  # whole batches until FIDELITY_IMAGES are reached
    assert compared >= FIDELITY_IMAGES
    assert [runner.seen for runner in runners] == [n, n, compared, compared]
    base = relative(plain[:compared], reference[:compared])
    assert found.excess_error == pytest.approx(
        relative(optimized[:compared], reference[:compared]) / base - 1, rel=1e-6
    )
    assert found.simulation_excess == pytest.approx(
        relative(simulated[:compared], reference[:compared]) / base - 1, rel=1e-6
    )
    assert accuracy.samples == n
    assert accuracy.agreement == pytest.approx((reference.argmax(1) == optimized.argmax(1)).mean())


def test_equal_kernels_have_no_excess() -> None:
    reference, plain, labels = drawn(n=40)
    runners = [Answers(reference), Answers(plain), Answers(plain), Answers(plain)]
    found = measure_accuracy(*runners, batches(labels, 40, 8), total=40)
    assert found.excess_error == found.simulation_excess == 0


def test_excess_over_an_exact_model() -> None:
    reference, other, labels = drawn(n=40)
    same = [Answers(reference)] * 3
    found = measure_accuracy(*same, None, batches(labels, 40, 8), total=40)
    assert (found.excess_error, found.simulation_excess, found.compared) == (0.0, None, 40)
    wrong = measure_accuracy(same[0], Answers(other), same[0], None, batches(labels, 40, 8), total=40)
    assert wrong.excess_error is None  # no finite number
    judged = fidelity().model_copy(update={"excess_error": None})
    (problem,) = problems_of(wrong.accuracy, judged)
    assert problem.code == "kernels-add-error"
    with pytest.raises(GateError, match="kernels add NaN or infinity"):
        require_gates(measured(wrong.accuracy, judged))


def test_without_the_plain_file() -> None:
    reference, quantized, labels = drawn(n=40)
    result = measure_accuracy(Answers(reference), Answers(quantized), None, None, batches(labels, 40, 8), total=40)
    assert (result.excess_error, result.simulation_excess, result.compared) == (0.0, None, 0)


def test_images_without_labels() -> None:
    reference, _, _ = drawn(n=10)
    with pytest.raises(LampqError, match="labelled"):
        measure_accuracy(Answers(reference), Answers(reference), None, None, batches(None, 10, 5), total=10)


def test_answers_that_are_no_class_scores() -> None:
    reference, _, labels = drawn(n=10)
    with pytest.raises(LampqError, match="shapes"):
        measure_accuracy(Answers(reference), Answers(reference[:, :4]), None, None, batches(labels, 10, 5), total=10)
    with pytest.raises(LampqError, match="12 classes"):
        measure_accuracy(Answers(reference), Answers(reference), None, None, batches(labels + 12, 10, 5), total=10)


def accuracy(drop: float, agreement: float) -> Accuracy:
    return Accuracy(
        samples=100,
        **{"float": TopK(top1=0.8, top5=0.9)},
        quantized=TopK(top1=0.8 - drop / 100, top5=0.9),
        drop_points=drop,
        standard_error_points=0.1,
        agreement=agreement,
        logit_sqnr_db=20.0,
        kl=0.1,
    )


def measured(accuracy: Accuracy, fidelity: Fidelity, **errors: float | None) -> Report:
    """A report that holds what gates read; ``errors``: layer -> reconstruction error."""
    layers = tuple(
        LayerReport.model_construct(name=name, weight_bits=3, activation_bits=8, reconstruction_error=error)
        for name, error in errors.items()
    )
    return Report.model_construct(
        accuracy=accuracy, fidelity=fidelity, layers=layers, problems=problems_of(accuracy, fidelity)
    )


@pytest.mark.parametrize(
    ("drop", "agreement", "max_drop", "min_agreement", "failures"),
    [
        (1.0, 0.9, None, None, 0),
        (1.0, 0.9, 1.0, 0.9, 0),
        (1.01, 0.9, 1.0, 0.9, 1),
        (1.0, 0.89, 1.0, 0.9, 1),
        (5.0, 0.5, 1.0, 0.9, 2),
        (-2.0, 0.9, 0.0, None, 0),
        (0.5, 0.1, 0.0, None, 1),
        (0.0, 0.99, None, 1.0, 1),
    ],
)
def test_gates(drop: float, agreement: float, max_drop: float, min_agreement: float, failures: int) -> None:
    limits = gate_limits(max_drop, min_agreement)
    if failures == 0:
        require_gates(measured(accuracy(drop, agreement), fidelity()), limits)
        return
    with pytest.raises(GateError) as raised:
        require_gates(measured(accuracy(drop, agreement), fidelity()), limits)
    message = raised.value.message
    assert message.count(" allowed") == failures
    assert raised.value.exit_code == 1


def test_a_failed_gate_names_the_layers_that_changed_most() -> None:
    errors = {"first": 0.1, "second": 0.4, "third": 0.2, "fourth": 0.3, "float": None}
    with pytest.raises(GateError, match=r"second \(0.4\), fourth \(0.3\), third \(0.2\)"):
        require_gates(measured(accuracy(0.0, 0.4), fidelity(), **errors), gate_limits(None, 0.5))
    with pytest.raises(GateError, match=r"fewest bits: one \(3/8 bits\)"):
        require_gates(measured(accuracy(0.0, 0.4), fidelity(), one=None), gate_limits(None, 0.5))


def test_what_was_not_measured_is_said() -> None:
    timed = Latency.model_construct(batch=1, threads=2)
    text = "\n".join(not_measured(accuracy(0.0, 1.0), fidelity(), timed))
    assert "simulation" in text
    assert "threads other than 2" in text
    assert "kernels add" not in text
    few = fidelity().model_copy(update={"samples": 8, "simulation_excess": 0.0})
    text = "\n".join(not_measured(accuracy(0.0, 1.0).model_copy(update={"samples": 8}), few, timed))
    assert "8 images, and 64 are needed" in text
    assert "12.5 points" in text
    assert "simulation" not in text


def fidelity(layer: float = 0.0, excess: float = 0.0) -> Fidelity:
    """At the bounds, or beyond them by the given shares."""
    return Fidelity(
        layer_max=LAYER_BOUND * (1 + layer),
        layer_worst="blocks.3.mlp.fc2",
        excess_error=EXCESS_BOUND * (1 + excess),
        simulation_excess=None,
        samples=EXCESS_IMAGES,
    )


@pytest.mark.parametrize(("layer", "excess", "problems"), [(0.0, 0.0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 2)])
def test_fidelity_bounds(layer: float, excess: float, problems: int) -> None:
    found = problems_of(accuracy(0.0, 1.0), fidelity(layer, excess))
    assert len(found) == problems
    if layer:
        assert "blocks.3.mlp.fc2" in found[0].message
        assert found[0].layer == "blocks.3.mlp.fc2"
    if problems:  # whatever else was asked for
        for bound in (None, 50.0):
            with pytest.raises(GateError, match="on this machine") as raised:
                require_gates(measured(accuracy(0.0, 1.0), fidelity(layer, excess)), gate_limits(bound))
            assert all(problem.message in raised.value.message for problem in found)


def test_a_few_images_say_nothing_about_the_excess() -> None:
    few = fidelity(excess=5).model_copy(update={"samples": EXCESS_IMAGES - 1})
    assert problems_of(accuracy(0.0, 1.0), few) == ()
    assert len(problems_of(accuracy(0.0, 1.0), few.model_copy(update={"layer_max": 1.0}))) == 1


def test_answers_that_are_not_finite() -> None:
    reference, other, labels = drawn(n=10)
    other[3, 2] = np.nan
    with pytest.raises(LampqError, match="the float file answers with NaN"):
        measure_accuracy(Answers(other), Answers(reference), None, None, batches(labels, 10, 5), total=10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", [None, MultiLabelMeter, EmbeddingMeter])
def test_a_quantized_file_that_is_not_finite_is_measured_and_fails(value: float, task: type | None) -> None:
    n = 40
    reference, _, _ = drawn(n=n)
    labels = reference.argmax(1)
    other = reference.copy()
    other[::4, 2] = value
    broken = np.zeros(n, dtype=bool)
    broken[::4] = True
    runners = (Answers(reference), Answers(other), Answers(reference), None)
    meter = None if task is None else task()
    found = measure_accuracy(*runners, batches(labels, n, 8), total=n, meter=meter).accuracy
    assert found.broken == 10
    assert found.agreement <= 0.75
    assert found.quantized.top1 <= 0.75
    if task is None:  # the other images are those of the float file
        assert (found.agreement, found.quantized.top1, found.drop_points) == (0.75, 0.75, 25.0)
        # zeros: no error relative to themselves where finite, the whole signal where not
        signal = (reference.astype(np.float64) ** 2).sum()
        noise = (reference[broken].astype(np.float64) ** 2).sum()
        assert found.logit_sqnr_db == pytest.approx(10 * np.log10(signal / noise), rel=1e-6)
        soft = np.exp(reference[broken].astype(np.float64))
        soft /= soft.sum(1, keepdims=True)
        uniform = np.log(reference.shape[1]) + (soft * np.log(soft)).sum(1)
        assert found.kl == pytest.approx(uniform.sum() / n, rel=1e-6)
    with pytest.raises(GateError, match="NaN or infinity on 10 of 40 images"):
        require_gates(measured(found, fidelity()))


def test_an_unoptimized_file_that_is_not_finite_fails() -> None:
    reference, _, labels = drawn(n=10)
    other = reference.copy()
    other[3] = np.nan
    found = measure_accuracy(
        Answers(reference), Answers(reference), Answers(other), None, batches(labels, 10, 5), total=10
    )
    assert (found.accuracy.broken, found.broken_plain) == (0, 1)
    (problem,) = problems_of(found.accuracy, fidelity().model_copy(update={"samples": 10}), found.broken_plain)
    assert problem.code == "not-finite"
    report = measured(found.accuracy, fidelity()).model_copy(update={"problems": (problem,)})
    with pytest.raises(GateError, match="without onnxruntime's optimizations"):
        require_gates(report)


def test_a_layer_that_is_not_finite_fails() -> None:
    broken = fidelity().model_copy(update={"layer_max": None})
    with pytest.raises(GateError, match=r"blocks.3.mlp.fc2 with NaN or infinity"):
        require_gates(measured(accuracy(0.0, 1.0), broken))


@pytest.mark.parametrize(("max_drop", "agreement"), [(math.nan, None), (math.inf, None), (None, math.nan), (None, 1.5)])
def test_limits_that_nothing_can_miss_are_refused(max_drop: float | None, agreement: float | None) -> None:
    with pytest.raises(UsageError):
        gate_limits(max_drop, agreement)


def test_errors_where_values_are_not_finite() -> None:
    meter = ErrorMeter()
    masked = np.array([1.0, -np.inf, 2.0])
    meter.add(masked, np.array([1.0, -np.inf, 2.0]))  # a mask on both sides is no error
    assert (meter.sqnr_db, meter.relative_error) == (None, 0.0)
    meter.add(np.array([2.0]), np.array([np.nan]))
    assert meter.relative_error == pytest.approx(2 / 3)
