"""What a report says against float and against uniform bits."""

from __future__ import annotations

import pytest

from lampq_onnx.artifacts.report import Allocation, Baseline
from lampq_onnx.evaluation.verdict import against_float, against_uniform, megabytes, speed_text
from tests.html.reports import accuracy, latency, layer, report


def baseline(top1: float, drop: float, kl: float) -> dict[str, Baseline]:
    return {"uniform": Baseline(weight_average=3.0, accuracy=accuracy(top1, drop, kl=kl), quantized_bytes=990_000)}


def allocation(cost: float | None, uniform: float | None) -> Allocation:
    return Allocation(
        metric="kl", objective=1.0, bound=1.0, gap=0.0, proven_optimal=True, update_rounds=0, update_kept=0,
        update_score_before=None, update_score_after=None, cost=cost, uniform_cost=uniform,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("drop", "kl", "gain", "word"),
    [
        (3.0, 0.1, "score", "keep 2.00 ± 0.28 points more"),
        (0.2, 0.1, "loss", "lose 0.80 ± 0.28 points more"),
        (1.4, 0.1, "outputs", "closer to float"),
        (1.4, 0.021, "none", "gain nothing"),
        (1.4, 0.001, "none", "gain nothing"),
    ],
)
def test_measured_against_uniform_bits(drop: float, kl: float, gain: str, word: str) -> None:
    found = against_uniform(report(baselines=baseline(0.81 - drop / 100, drop, kl)))  # own: 1.0 points, KL 0.02
    assert found.gain == gain
    assert word in found.sentence


@pytest.mark.parametrize(
    ("cost", "uniform", "gain", "word"),
    [
        (0.01, 0.05, "unknown", "5.0 times as much KL in the sum over single layers"),
        (0.01, 0.0105, "none", "expected to gain nothing"),
        (0.0, 0.05, "unknown", "expected to cost nothing"),
        (None, None, "unknown", "Not compared"),
    ],
)
def test_expected_against_uniform_bits(cost: float | None, uniform: float | None, gain: str, word: str) -> None:
    found = against_uniform(report(baselines={}, allocation=allocation(cost, uniform)))
    assert found.gain == gain
    assert word in found.sentence


def test_one_width_is_uniform() -> None:
    found = against_uniform(report(baselines={}, layers=(layer("a", 8), layer("b", 8))))
    assert found.gain == "none"
    assert found.sentence == "Every layer has 8 bits: uniform bits and this plan are the same."


def test_speed_within_the_noise_is_no_gain() -> None:
    assert speed_text(latency(1.05)) == "as fast as float within the noise (1.05x)"
    assert speed_text(latency(2.0)) == "2.00x faster than float"
    assert speed_text(latency(0.5)) == "2.00x slower than float"


def test_against_float() -> None:
    assert against_float(report()) == (
        "Loses 1.00 ± 0.20 points of top-1 (80.00 %) (n = 500), 4.0x smaller (4.00 to 1.00 MB), "
        "2.00x faster than float."
    )
    assert megabytes(12_345_678) == "12.35"
    assert megabytes(345_678) == "0.346"
