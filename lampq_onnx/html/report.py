"""The HTML page of a report."""

from __future__ import annotations

import itertools
from pathlib import Path

from lampq_onnx.artifacts import Report, Sensitivities
from lampq_onnx.artifacts.details import AnswerChanges, OperatorTimes, OutputErrors
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.disk.files import write_atomic
from lampq_onnx.evaluation.gates import failed_gates, gates_of, verdict_line
from lampq_onnx.html import figures as draw
from lampq_onnx.html.advice import advise
from lampq_onnx.html.page import render
from lampq_onnx.html.places import place_of
from lampq_onnx.html.verdict import verdict


def report_page(report: Report, sensitivities: Sensitivities | None = None) -> str:
    """Return the whole page as text; parts without figures in the report are left out.

    Args:
        report: the report.
        sensitivities: sensitivities of the same model, from which gains of single layers are shown.
    """
    details, gates = report.details, gates_of(report)
    plots = draw.present(
        draw.bit_map(report.layers),
        draw.sensitivities(report.layers),
        draw.output_errors(details.errors) if details and details.errors else None,
        draw.operators(details.operators) if details and details.operators else None,
        draw.classes(details.changes) if details and details.changes else None,
    )
    return render(
        "report.html",
        plots,
        {
            "title": f"{'FAIL' if failed_gates(gates) else 'PASS'} {report.model}: quantization report",
            "gates": gates,
            "failed": failed_gates(gates),
            "gate_line": verdict_line(gates),
            "report": report,
            "verdict": verdict(report),
            "comparison": _comparison(report),
            "bits_caption": _bits_caption(report),
            "errors_caption": _errors_caption(details.errors) if details and details.errors else "",
            "operators_caption": _operators_caption(details.operators, report) if details and details.operators else "",
            "metric": report.accuracy.metric,
            "changes": details.changes if details else None,
            "changes_caption": _changes_caption(details.changes, report.accuracy)
            if details and details.changes
            else "",
            "advice": advise(report, sensitivities),
            "machine": _machine(report),
        },
    )


def write_report(report: Report, path: Path, sensitivities: Sensitivities | None = None) -> None:
    """Write the HTML page, atomically."""
    write_atomic(path, report_page(report, sensitivities).encode())


def _comparison(report: Report) -> list[dict[str, object]]:
    if not report.baselines:
        return []
    metric = report.allocation.metric if report.allocation else "plan"
    rows = [
        _row(
            f"{metric} (this file)",
            report.bits.weight_average,
            report.size.quantized_bytes,
            report.accuracy,
            report.latency.speedup,
        )
        | {"own": True}
    ]
    for name, other in report.baselines.items():
        speed = other.latency.speedup if other.latency else None
        rows.append(_row(name, other.weight_average, other.quantized_bytes, other.accuracy, speed) | {"own": False})
    return rows


def _row(name: str, bits: float, size: int, accuracy: Accuracy, speed: float | None) -> dict[str, object]:
    return {
        "name": name,
        "bits": f"{bits:.3f}",
        "size": f"{size / 1e6:.2f}",
        "top1": f"{100 * accuracy.quantized.top1:.2f} %",
        "drop": f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        "agreement": accuracy.agreement_text,
        "kl": accuracy.kl_text,
        "speed": "" if speed is None else f"{speed:.2f}x",
    }


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
