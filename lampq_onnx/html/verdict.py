"""The one-line summary at the top of a report, and its large figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lampq_onnx.artifacts import Report
from lampq_onnx.evaluation.gates import failed_gates, gates_of
from lampq_onnx.evaluation.verdict import against_float, against_uniform, is_ruined, is_told


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
    failed = failed_gates(gates_of(report))
    ruined, told = is_ruined(report.accuracy), is_told(report.accuracy)
    line = f"{against_float(report)} {against_uniform(report).sentence}"
    if report.problems:
        line += " The file does not run on this machine as written; see below."
    tone: Literal["good", "warn", "bad"] = "bad" if ruined or failed else "warn" if told else "good"
    return Verdict(line, tone, _tiles(report))


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
