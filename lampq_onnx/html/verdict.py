"""The one-line summary at the top of a report, and its large figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lampq_onnx.artifacts import Report
from lampq_onnx.evaluation.gates import failed_gates, gates_of

UNIFORM = "uniform"


@dataclass(frozen=True)
class Tile:
    """One figure in large print."""

    what: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The summary of a report.

    Attributes:
        line: one sentence.
        tone: good: the loss is not significant with these images (two standard errors); warn: a loss, but half of the
            score or more is kept; bad: less is kept, or a gate fails.
        tiles: the large figures.
    """

    line: str
    tone: Literal["good", "warn", "bad"]
    tiles: tuple[Tile, ...]


def verdict(report: Report) -> Verdict:
    """Summarize accuracy, size and speed against float, and against uniform bits if those were measured."""
    accuracy, size, latency = report.accuracy, report.size, report.latency
    drop, spread = accuracy.drop_points, accuracy.standard_error_points
    failed = failed_gates(gates_of(report))
    # R2 may be below 0: the loss is compared with the magnitude of the score.
    ruined = accuracy.float_.top1 - accuracy.quantized.top1 > abs(accuracy.float_.top1) / 2
    told = drop > 2 * spread
    smaller = size.float_bytes / size.quantized_bytes
    if ruined:
        loss = (
            f"Unusable: {accuracy.metric} falls from {_percent(accuracy.float_.top1)} to "
            f"{_percent(accuracy.quantized.top1)}"
        )
    elif told:
        loss = f"Loses {drop:.2f} ± {spread:.2f} points of {accuracy.metric} ({_percent(accuracy.quantized.top1)})"
    else:
        name = accuracy.metric[:1].upper() + accuracy.metric[1:]
        loss = f"{name} {_percent(accuracy.quantized.top1)}, a drop of {drop:.2f} ± {spread:.2f} points"
    chance = "" if ruined or told else ", not significant"
    parts = [
        f"{loss}{chance} (n = {accuracy.samples})",
        f"{smaller:.1f}x smaller ({size.float_bytes / 1e6:.2f} to {size.quantized_bytes / 1e6:.2f} MB)",
        _speed(latency.speedup),
    ]
    line = ", ".join(parts) + ". " + _against_uniform(report)
    if report.problems:
        line += " The file does not run on this machine as written; see below."
    tone: Literal["good", "warn", "bad"] = "bad" if ruined or failed else "warn" if told else "good"
    return Verdict(line, tone, _tiles(report))


def _against_uniform(report: Report) -> str:
    other = report.baselines.get(UNIFORM)
    if other is None:
        return "Not compared with uniform bits (use --baseline uniform)."
    own, theirs = report.accuracy, other.accuracy
    text = (
        f"Uniform bits of {other.weight_average:.2f} on average lose {theirs.drop_points:.2f} points "
        f"(KL {theirs.kl_text}, here {own.kl_text}) at {other.quantized_bytes / 1e6:.2f} MB"
    )
    return text + (f", {_speed(other.latency.speedup)}." if other.latency else ".")


def _speed(ratio: float) -> str:
    return f"{ratio:.2f}x faster than float" if ratio >= 1 else f"{1 / ratio:.2f}x slower than float"


def _tiles(report: Report) -> tuple[Tile, ...]:
    accuracy, size, latency, bits = report.accuracy, report.size, report.latency, report.bits
    sqnr = "no error" if accuracy.logit_sqnr_db is None else f"SQNR {accuracy.logit_sqnr_db:.1f} dB"
    low, high = latency.speedup_quartiles
    return (
        Tile(
            accuracy.metric,
            _percent(accuracy.quantized.top1),
            f"float {_percent(accuracy.float_.top1)}; drop {accuracy.drop_points:.2f} ± "
            f"{accuracy.standard_error_points:.2f}",
        ),
        Tile("size", f"{size.quantized_bytes / 1e6:.2f} MB", f"float {size.float_bytes / 1e6:.2f} MB"),
        Tile(
            "latency",
            f"{latency.quantized_ms:.2f} ms",
            f"{latency.speedup:.2f}x of float's speed [{low:.2f}, {high:.2f}], batch {latency.batch}, "
            f"{latency.threads} thread(s)",
        ),
        Tile(
            "agreement with float",
            accuracy.agreement_text,
            f"{accuracy.agreement_counts}; {sqnr}, KL {accuracy.kl_text}",
        ),
        Tile(
            "weight bits",
            f"{bits.weight_average:.2f}",
            "on average" if bits.budget is None else f"on average, budget {bits.budget:g}",
        ),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
