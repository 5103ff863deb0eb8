from __future__ import annotations

import math

import numpy as np
import pytest

from lampq_onnx.artifacts.report import Accuracy, Fidelity, Latency, LayerReport, Report, TopK
from lampq_onnx.data import Batch
from lampq_onnx.errors import GateError, LampqError
from lampq_onnx.runtime import AccuracyMeter
from lampq_onnx.validation import (
    EXCESS_BOUND,
    EXCESS_IMAGES,
    FIDELITY_IMAGES,
    LAYER_BOUND,
    apply_gates,
    fidelity_problems,
    measure_accuracy,
    not_measured,
)


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
    accuracy, excess, simulation_excess, compared = measure_accuracy(*runners, batches(labels, n, 100), total=n)
    assert compared == 300  # whole batches until FIDELITY_IMAGES are reached
    assert compared >= FIDELITY_IMAGES
    assert [runner.seen for runner in runners] == [n, n, compared, compared]
    base = relative(plain[:compared], reference[:compared])
    assert excess == pytest.approx(relative(optimized[:compared], reference[:compared]) / base - 1, rel=1e-6)
    assert simulation_excess == pytest.approx(relative(simulated[:compared], reference[:compared]) / base - 1, rel=1e-6)
    assert accuracy.samples == n
    assert accuracy.agreement == pytest.approx((reference.argmax(1) == optimized.argmax(1)).mean())


def test_equal_kernels_have_no_excess() -> None:
    reference, plain, labels = drawn(n=40)
    runners = [Answers(reference), Answers(plain), Answers(plain), Answers(plain)]
    _, excess, simulation_excess, _ = measure_accuracy(*runners, batches(labels, 40, 8), total=40)
    assert excess == simulation_excess == 0


def test_excess_over_an_exact_model() -> None:
    reference, other, labels = drawn(n=40)
    same = [Answers(reference)] * 3
    assert measure_accuracy(*same, None, batches(labels, 40, 8), total=40)[1:] == (0.0, None, 40)
    wrong = measure_accuracy(same[0], Answers(other), same[0], None, batches(labels, 40, 8), total=40)
    assert wrong[1] == math.inf


def test_without_the_plain_file() -> None:
    reference, quantized, labels = drawn(n=40)
    result = measure_accuracy(Answers(reference), Answers(quantized), None, None, batches(labels, 40, 8), total=40)
    assert result[1:] == (0.0, None, 0)


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
    return Report.model_construct(accuracy=accuracy, fidelity=fidelity, layers=layers)


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
    if failures == 0:
        apply_gates(measured(accuracy(drop, agreement), fidelity()), max_drop=max_drop, min_agreement=min_agreement)
        return
    with pytest.raises(GateError) as raised:
        apply_gates(measured(accuracy(drop, agreement), fidelity()), max_drop=max_drop, min_agreement=min_agreement)
    message = raised.value.message
    assert message.count("more than") + message.count("less than") == failures
    assert raised.value.exit_code == 1


def test_a_failed_gate_names_the_layers_that_changed_most() -> None:
    errors = {"first": 0.1, "second": 0.4, "third": 0.2, "fourth": 0.3, "float": None}
    with pytest.raises(GateError, match=r"second \(0.4\), fourth \(0.3\), third \(0.2\)"):
        apply_gates(measured(accuracy(0.0, 0.4), fidelity(), **errors), min_agreement=0.5)
    with pytest.raises(GateError, match=r"fewest bits: one \(3/8 bits\)"):
        apply_gates(measured(accuracy(0.0, 0.4), fidelity(), one=None), min_agreement=0.5)


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
    found = fidelity_problems(fidelity(layer, excess))
    assert len(found) == problems
    if layer:
        assert "blocks.3.mlp.fc2" in found[0]
    if problems:  # whatever else was asked for
        for bound in (None, 50.0):
            with pytest.raises(GateError, match="on this machine") as raised:
                apply_gates(measured(accuracy(0.0, 1.0), fidelity(layer, excess)), max_drop=bound)
            assert all(problem in raised.value.message for problem in found)


def test_a_few_images_say_nothing_about_the_excess() -> None:
    few = fidelity(excess=5).model_copy(update={"samples": EXCESS_IMAGES - 1})
    assert fidelity_problems(few) == []
    assert len(fidelity_problems(few.model_copy(update={"layer_max": 1.0}))) == 1


def test_answers_that_are_not_finite() -> None:
    reference, other, labels = drawn(n=10)
    other[3, 2] = np.nan
    with pytest.raises(LampqError, match="the quantized file answers with NaN"):
        measure_accuracy(Answers(reference), Answers(other), None, None, batches(labels, 10, 5), total=10)
