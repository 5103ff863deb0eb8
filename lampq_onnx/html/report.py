"""The HTML page of a report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from lampq_onnx.artifacts import Report, Sensitivities
from lampq_onnx.artifacts.details import AnswerChanges, OperatorTimes, OutputErrors
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.disk.files import write_atomic
from lampq_onnx.evaluation.gates import failed_gates, gates_of, verdict_line
from lampq_onnx.html import figures as draw
from lampq_onnx.html.advice import advise
from lampq_onnx.html.facts import LINKED, facts
from lampq_onnx.html.graph import graph_caption, graph_picture
from lampq_onnx.html.page import render
from lampq_onnx.html.places import place_of
from lampq_onnx.html.report_tables import (
    ADVICE,
    GATES,
    SECONDS,
    comparison_heads,
    comparison_rows,
    gate_rows,
    layer_table,
)
from lampq_onnx.html.verdict import verdict
from lampq_onnx.html.words import Line


def report_page(report: Report, sensitivities: Sensitivities | None = None, files: Sequence[str] = ()) -> str:
    """Return the whole page as text; parts without figures in the report are left out.

    Args:
        report: the report.
        sensitivities: sensitivities of the same model, from which gains of single layers are shown.
        files: names of files beside the page, to which it links.
    """
    details, gates, advice = report.details, gates_of(report), advise(report, sensitivities)
    changes = details.changes if details else None
    plots = draw.present(
        draw.bit_map(report.layers),
        draw.sensitivities(report.layers),
        draw.output_errors(details.errors) if details and details.errors else None,
        draw.operators(details.operators) if details and details.operators else None,
        draw.classes(changes) if changes else None,
    )
    columns, rows = layer_table(report.layers)
    return render(
        "report.html",
        plots,
        {
            "title": f"{'FAIL' if failed_gates(gates) else 'PASS'} {report.model}: quantization report",
            "failed": failed_gates(gates),
            "gate_line": verdict_line(gates),
            "report": report,
            "facts": facts(report.written, report.environment, files),
            "links": [name for name in LINKED if name in files],
            "verdict": verdict(report),
            "bits_caption": _bits_caption(report),
            "graph": graph_picture(report.layers),
            "graph_caption": graph_caption(report.layers),
            "errors_caption": _errors_caption(details.errors) if details and details.errors else "",
            "operators_caption": _operators_caption(details.operators, report) if details and details.operators else "",
            "changes": changes,
            "changes_caption": _changes_caption(changes, report.accuracy) if changes else "",
            "advice": advice,
            "machine": _machine(report),
            "gate_columns": GATES,
            "gates": gate_rows(gates),
            "comparison_columns": comparison_heads(report.accuracy.metric),
            "comparison": comparison_rows(report),
            "advice_columns": ADVICE,
            "advice_rows": [Line((row.layer, row.now, row.change, row.effect)) for row in advice.rows],
            "layer_columns": columns,
            "layers": rows,
            "seconds_columns": SECONDS,
            "seconds": [Line((name.replace("_", " "), f"{value:.1f}")) for name, value in report.seconds.items()],
        },
    )


def write_report(
    report: Report, path: Path, sensitivities: Sensitivities | None = None, files: Sequence[str] = ()
) -> None:
    """Write the HTML page, atomically; see `report_page`."""
    write_atomic(path, report_page(report, sensitivities, files).encode())


def _bits_caption(report: Report) -> str:
    inside = [layer for layer in report.layers if place_of(layer.name) is not None]
    outside = [layer for layer in report.layers if place_of(layer.name) is None]
    parts = []
    widths = {layer.activation_bits for layer in inside}
    if len(widths) == 1:
        parts.append(f"Inputs have {widths.pop()} bits everywhere.")
    if outside:
        named = ", ".join(f"{layer.name} {layer.bits_text} bits" for layer in outside[:6])
        more = len(outside) - 6
        parts.append(f"Outside the blocks: {named}{f' and {more} more' if more > 0 else ''}.")
    if report.bits.covers:
        parts.append(f"The budget covers {', '.join(report.bits.covers)}.")
    return " ".join(parts)


def _errors_caption(errors: OutputErrors) -> str:
    known = [(o.name, o.sqnr_db) for o in errors.outputs if o.kind == "block" and o.sqnr_db is not None]
    text = (
        f"Signal-to-noise ratio (float against quantized) on {errors.samples} images, with all earlier layers "
        "quantized too; "
        "higher is better."
    )
    falls = [(first[1] - second[1], second[0]) for first, second in itertools.pairwise(known)]
    if falls and max(falls)[0] > 0:
        fall, name = max(falls)
        text += f" The largest drop from one block to the next is {fall:.1f} dB, in {name}."
    return text


def _operators_caption(times: OperatorTimes, report: Report) -> str:
    return (
        f"Profile by onnxruntime, median of {times.runs} alternating runs, batch {times.batch}, "
        f"{times.threads} thread(s), {report.environment.cpu}. The profiler adds some microseconds per node."
    )


def _changes_caption(changes: AnswerChanges, accuracy: Accuracy) -> str:
    total = changes.lost + changes.won + changes.other
    if not total:
        return f"All {accuracy.samples} images get the same answer from both files."
    text = (
        f"{total} of {accuracy.samples} answers changed: {changes.lost} newly wrong, {changes.won} newly right, "
        f"{changes.other} wrong before and after."
    )
    if total > len(changes.images):
        text += f" Below: {len(changes.images)} of them; those that the float model was most certain of come first."
    return text


def _machine(report: Report) -> str:
    found = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    runtime = f", run by {found.runtime}" if found.runtime else ""
    return (
        f"lampq-onnx {found.lampq_onnx}, {versions}; {found.cpu} ({', '.join(found.cpu_flags) or 'no vector flags'}), "
        f"{found.cores} cores; target {found.target}{runtime}. Images: {report.preprocessing}."
    )
