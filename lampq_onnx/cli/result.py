"""The end of a run: what came out, in few lines, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy, Latency
from lampq_onnx.cli.columns import Column, Row, console, print_table, words
from lampq_onnx.evaluation.gates import failed_gates, gates_of, verdict_line
from lampq_onnx.evaluation.verdict import against_float, against_uniform, megabytes

NOTES = 2
"""Notes that the end of a run shows, each on one line; all of them are in the report, and shown by -v."""


def print_result(report: Report, folder: Path | None = None, said: Sequence[str] = ()) -> None:
    """Print the result of a run: the comparison, the verdict, files, and what to do next.

    Args:
        report: what was measured.
        folder: where the files are; None: nothing was written.
        said: lines about the files.
    """
    out = console()
    out.print(_title(report), markup=False, soft_wrap=True)
    out.print()
    print_comparison(out, report)
    out.print()
    lines = [against_float(report)]
    if report.allocation is not None or report.baselines:
        lines.append(against_uniform(report).sentence)
    for line in lines:
        out.print(line, markup=False)
    for note in report.notes[:NOTES]:
        out.print(f"[yellow]note:[/] {escape(note)}", no_wrap=True, overflow="ellipsis")
    if len(report.notes) > NOTES:
        out.print(f"[yellow]note:[/] {len(report.notes) - NOTES} more in the report (-v shows them)")
    print_gates(out, report)
    for line in said:
        out.print(line, markup=False)
    if folder is not None:
        _print_next(out, report, folder)


def print_gates(out: Console, report: Report) -> None:
    """Print problems, then PASS or FAIL."""
    gates = gates_of(report)
    for problem in report.problems:
        out.print(f"[red]problem:[/] {escape(problem.message)}")
    out.print(f"[bold {'red' if failed_gates(gates) else 'green'}]{escape(verdict_line(gates))}[/]")


def result_values(report: Report, folder: Path | None = None, said: Sequence[str] = ()) -> dict[str, Any]:
    """Return the result as one object for JSON; report.json holds everything else."""
    accuracy, size, latency, gates = report.accuracy, report.size, report.latency, gates_of(report)
    mixed = against_uniform(report)
    return {
        "model": report.model,
        "passed": not failed_gates(gates),
        "verdict": against_float(report),
        "gates": {gate.name: gate.passed for gate in gates},
        "problems": [problem.message for problem in report.problems],
        "accuracy": accuracy.model_dump(mode="json", by_alias=True),
        "size": size.model_dump(mode="json"),
        "latency": latency.model_dump(mode="json", exclude={"float_samples_ms", "quantized_samples_ms"}),
        "bits": report.bits.model_dump(mode="json"),
        "against_uniform": {"gain": mixed.gain, "sentence": mixed.sentence},
        "baselines": {
            name: other.model_dump(
                mode="json", by_alias=True, exclude={"latency": {"float_samples_ms", "quantized_samples_ms"}}
            )
            for name, other in report.baselines.items()
        },
        "notes": list(report.notes),
        "folder": None if folder is None else str(folder),
        "said": list(said),
    }


def print_comparison(out: Console, report: Report) -> None:
    """Print a row for the float file, each baseline and this file."""
    metric = report.accuracy.metric
    columns = [
        words("file"), Column("bits", 2), Column("MB"), Column(metric), Column("drop", 1), Column("agreement", 3),
        Column("SQNR", 5), Column("KL", 4), Column("speed", 0),
    ]  # fmt: skip
    size, accuracy = report.size, report.accuracy
    rows = [Row(("float", "32", megabytes(size.float_bytes), _percent(accuracy.float_.top1), "", "", "", "", "1.00x"))]
    for name, other in report.baselines.items():
        rows.append(_row(name, other.weight_average, other.quantized_bytes, other.accuracy, other.latency))
    chosen = report.allocation.metric if report.allocation else ""
    own = f"this file ({chosen})" if chosen else "this file"
    rows.append(_row(own, report.bits.weight_average, size.quantized_bytes, accuracy, report.latency, bold=True))
    print_table(out, columns, rows)


def _row(
    name: str, average: float, size: int, accuracy: Accuracy, latency: Latency | None, *, bold: bool = False
) -> Row:
    cells = (
        name,
        f"{average:.3f}",
        megabytes(size),
        _percent(accuracy.quantized.top1),
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        accuracy.agreement_text,
        "inf" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f} dB",
        accuracy.kl_text,
        "" if latency is None else f"{latency.speedup:.2f}x",
    )
    return Row(cells, bold)


def _title(report: Report) -> str:
    widths = sorted({bits for layer in report.layers for bits in layer.channel_bits or (layer.weight_bits,)})
    inputs = sorted({layer.activation_bits for layer in report.layers})
    if not widths:
        return report.model
    return f"{report.model}: {len(report.layers)} layers, weights of {_span(widths)}, inputs of {_span(inputs)}"


def _span(widths: Sequence[int]) -> str:
    named = ["float" if width == 32 else str(width) for width in widths]
    return named[0] + (f" to {named[-1]}" if len(named) > 1 else "") + ("" if named[-1] == "float" else " bits")


def _print_next(out: Console, report: Report, folder: Path) -> None:
    where = str(folder)
    steps = {f"open {where}/report.html": "where bits, error and time went"}
    if failed_gates(gates_of(report)):
        steps[f"lampq-onnx inspect {where}/model.onnx"] = "the layers; then give more bits"
    else:
        steps[f"lampq-onnx inspect {where}/model.onnx"] = "the bits of each layer"
        steps[f"lampq-onnx package {where} --format ort"] = "for a device; triton: for a server"
    width = max(map(len, steps))
    out.print("next:")
    for command, why in steps.items():
        out.print(f"  {command:{width}}  [dim]{why}[/]" if width < 44 else f"  {command}", soft_wrap=True)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
