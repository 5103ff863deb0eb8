"""What a report says in a sentence: against float, and against uniform bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy, Baseline, Latency

UNIFORM = "uniform"

CLOSER = 0.9
"""Mixed bits count as closer to float if their KL is below this part of the KL of uniform bits."""

Gain = Literal["score", "outputs", "none", "loss", "unknown"]
"""What mixed bits gain: a better score, outputs closer to float at the same score, nothing; or they lose."""


@dataclass(frozen=True)
class Mixed:
    """Mixed bits against uniform bits.

    Attributes:
        gain: what is gained; unknown: uniform bits were not measured.
        sentence: the same with figures.
    """

    gain: Gain
    sentence: str


def against_float(report: Report) -> str:
    """Say in one sentence what was lost and gained against the float file."""
    accuracy, size = report.accuracy, report.size
    smaller = size.float_bytes / size.quantized_bytes
    parts = [
        f"{loss_text(accuracy)} (n = {accuracy.samples})",
        f"{smaller:.1f}x smaller ({megabytes(size.float_bytes)} to {megabytes(size.quantized_bytes)} MB)",
        speed_text(report.latency),
    ]
    return ", ".join(parts) + "."


def is_ruined(accuracy: Accuracy) -> bool:
    """Whether more than half of the score is lost. R2 may be below 0: the loss is compared with its magnitude."""
    return accuracy.float_.top1 - accuracy.quantized.top1 > abs(accuracy.float_.top1) / 2


def is_told(accuracy: Accuracy) -> bool:
    """Whether the drop is larger than chance: two standard errors."""
    return accuracy.drop_points > 2 * accuracy.standard_error_points


def loss_text(accuracy: Accuracy) -> str:
    """Say how much of the score was lost, and whether that is more than chance."""
    now = f"{100 * accuracy.quantized.top1:.2f} %"
    if is_ruined(accuracy):
        return f"Unusable: {accuracy.metric} falls from {100 * accuracy.float_.top1:.2f} % to {now}"
    drop = f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f} points"
    if is_told(accuracy):
        return f"Loses {drop} of {accuracy.metric} ({now})"
    return f"{accuracy.metric[:1].upper()}{accuracy.metric[1:]} {now}, a drop of {drop}, not significant"


def speed_text(latency: Latency) -> str:
    """Say how fast a file is against float; as fast, if the quartiles lie on both sides."""
    low, high = latency.speedup_quartiles
    ratio = latency.speedup
    if low < 1 < high:
        return f"as fast as float within the noise ({ratio:.2f}x)"
    return f"{ratio:.2f}x faster than float" if ratio >= 1 else f"{1 / ratio:.2f}x slower than float"


def against_uniform(report: Report) -> Mixed:
    """Say what mixed bits gain over uniform bits of the same average."""
    budgeted = {
        bits
        for layer in report.layers
        if layer.type in report.bits.covers
        for bits in layer.channel_bits or (layer.weight_bits,)
    }
    other = report.baselines.get(UNIFORM)
    if len(budgeted) == 1 and other is None:
        return Mixed("none", f"Every layer has {budgeted.pop()} bits: uniform bits and this plan are the same.")
    if other is not None:
        return _measured(report.accuracy, other)
    found = report.allocation
    if found is None or found.cost is None or found.uniform_cost is None:
        return Mixed("unknown", "Not compared with uniform bits (--baseline uniform does it).")
    how = "by the costs of single layers; --baseline uniform measures it"
    if found.uniform_cost <= found.cost / CLOSER:
        return Mixed("none", f"Mixed bits are expected to gain nothing over uniform bits here ({how}).")
    if found.cost <= 0:
        text = f"Mixed bits are expected to cost nothing, uniform bits a KL of {found.uniform_cost:.2g} ({how})."
        return Mixed("unknown", text)
    ratio = found.uniform_cost / found.cost
    return Mixed(
        "unknown",
        f"Uniform bits cost {ratio:.1f} times as much KL in the sum over single layers, and often less than that in "
        "the whole model (--baseline uniform measures it).",
    )


def _measured(own: Accuracy, other: Baseline) -> Mixed:
    theirs = other.accuracy
    gain = theirs.drop_points - own.drop_points
    spread = math.hypot(own.standard_error_points, theirs.standard_error_points)
    where = f"uniform {other.weight_average:.2f} bits ({megabytes(other.quantized_bytes)} MB)"
    nats = f"KL {own.kl_text} against {theirs.kl_text}"
    if gain > 2 * spread:
        return Mixed("score", f"Mixed bits keep {gain:.2f} ± {spread:.2f} points more than {where}, {nats}.")
    if gain < -2 * spread:
        return Mixed("loss", f"Mixed bits lose {-gain:.2f} ± {spread:.2f} points more than {where}: prefer those.")
    if own.kl < CLOSER * theirs.kl:
        text = f"Mixed bits are closer to float than {where} ({nats}), at the same {own.metric} within chance."
        return Mixed("outputs", text)
    return Mixed("none", f"Mixed bits gain nothing over {where} here: {nats}, the same {own.metric} within chance.")


def megabytes(size: int) -> str:
    """Bytes as megabytes, with three decimals below one."""
    return f"{size / 1e6:.2f}" if size >= 1e6 else f"{size / 1e6:.3f}"
