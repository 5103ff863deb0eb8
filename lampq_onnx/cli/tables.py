"""Tables that the commands print on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.cli.columns import Column, Row, console, print_table, words
from lampq_onnx.evaluation.gates import NOT_COMPARED
from lampq_onnx.workflow.sweep.files import PICKED_FILES

if TYPE_CHECKING:
    from lampq_onnx.allocation import FormSolution, Solution
    from lampq_onnx.artifacts.finding import Finding
    from lampq_onnx.converter import Conversion
    from lampq_onnx.converter.inspect import QuantizedLayer


def print_report_layers(report: Report) -> None:
    """Print a row for each layer of a report."""
    columns = [
        words("layer"), words("type", 3), Column("W bits"), Column("A bits"), Column("storage", 4), Column("kB", 2),
        Column("trace", 6), Column("omega", 5), Column("error", 1),
    ]  # fmt: skip
    rows = [
        (
            layer.name, layer.type, layer.bits_text, str(layer.activation_bits), layer.storage,
            f"{layer.bytes / 1e3:.1f}", _number(layer.trace), _number(layer.omega), _number(layer.reconstruction_error),
        )
        for layer in report.layers
    ]  # fmt: skip
    print_table(console(), columns, rows, f"{report.model}: layers")


def print_summary(report: Report) -> None:
    """Print accuracy, size, latency, bits, fidelity and notes, each with all that is known about it."""
    out = console()
    accuracy, size, latency, fidelity = report.accuracy, report.size, report.latency, report.fidelity
    rows = [
        (
            accuracy.metric,
            f"float {_percent(accuracy.float_.top1)}, quantized {_percent(accuracy.quantized.top1)}, "
            f"drop {accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f} points (n = {accuracy.samples})",
        ),
        *_further_scores(accuracy),
        (
            "agreement with float",
            f"{accuracy.agreement_text}, counting {accuracy.agreement_counts}; SQNR of the outputs {_sqnr(accuracy)}, "
            f"KL {accuracy.kl_text}",
        ),
        (
            "size",
            f"{size.float_bytes / 1e6:.2f} MB -> {size.quantized_bytes / 1e6:.2f} MB "
            f"({size.float_bytes / size.quantized_bytes:.1f}x smaller)",
        ),
        (
            "latency",
            f"float {latency.float_ms:.2f} ms, quantized {latency.quantized_ms:.2f} ms, "
            f"{latency.speedup:.2f}x [{latency.speedup_quartiles[0]:.2f}, {latency.speedup_quartiles[1]:.2f}] "
            f"(batch {latency.batch}, {latency.threads} thread(s), {latency.runs} interleaved runs)",
        ),
        ("images", report.preprocessing),
        *([("runtime", report.environment.runtime)] if report.environment.runtime else []),
        (
            "machine",
            f"{report.environment.cpu}; {', '.join(report.environment.cpu_flags) or 'no vector flags'}",
        ),
    ]
    bits = report.bits
    if bits.covers:
        budget = "" if bits.budget is None else f", budget {bits.budget:g}"
        rows.append(
            (
                "average weight bits",
                f"{bits.weight_average:.3f} by weights, {bits.weight_average_unweighted:.3f} by layers{budget} "
                f"(over {', '.join(bits.covers)}); {bits.weight_average_all:.3f} with the fixed layers",
            )
        )
    if report.allocation is not None:
        found = report.allocation
        proof = "optimal" if found.proven_optimal else f"gap {100 * found.gap:.2g} %"
        rows.append(
            (
                "allocation",
                f"{found.metric}, {proof}; update kept {found.update_kept} of {found.update_rounds} swaps",
            )
        )
        if found.granularity is not None:
            rows.append(("granularity", found.granularity.text))
    if report.rounding is not None:
        stages = ", ".join(
            f"{stage} {value:.3g}" + ("" if report.rounding.kept.get(stage, True) else " (undone)")
            for stage, value in report.rounding.held_out_kl.items()
        )
        kept = ", ".join(f"{name} {count}" for name, count in sorted(report.rounding.techniques.items()))
        rows.append(("rounding", f"{report.rounding.effort}: {kept}" + (f"; held-out KL: {stages}" if stages else "")))
    if report.equalized:
        rows.append(("equalized inputs", f"{len(report.equalized)} of {len(report.layers)} layers"))
    if bits.activation_average is not None:
        rows.append(
            (
                "average input bits",
                f"{bits.activation_average:.3f} by input elements, {bits.activation_average_unweighted:.3f} by layers",
            )
        )
    simulation = "" if fidelity.simulation_excess is None else f", simulation {100 * fidelity.simulation_excess:+.1f} %"
    worst = f"worst layer {_or_not_finite(fidelity.layer_max, '.1e')}"
    if fidelity.layer_worst is None and fidelity.layer_max == 0:
        worst = NOT_COMPARED
    rows.append(
        (
            "fidelity",
            f"{worst}; error of the model against its plain QDQ arithmetic: kernels "
            f"{_or_not_finite(fidelity.excess_error, '+.1%')}{simulation} (n = {fidelity.samples})",
        )
    )
    print_table(out, [words("what"), words("value")], rows, f"{report.model}: summary")
    for note in report.notes:
        out.print(f"[yellow]note:[/] {escape(note)}")


def _or_not_finite(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _further_scores(accuracy: Accuracy) -> list[tuple[str, str]]:
    rows = []
    if accuracy.float_.top5 is not None and accuracy.quantized.top5 is not None:
        rows.append(("top-5", f"float {_percent(accuracy.float_.top5)}, quantized {_percent(accuracy.quantized.top5)}"))
    for name, (first, second) in accuracy.scores.items():
        rows.append((name, ("" if first is None else f"float {_percent(first)}, ") + f"quantized {_percent(second)}"))
    return rows


def print_sweep(sweep: Sweep, folder: Path) -> None:
    """Print a row for each point of a sweep; points that are Pareto-optimal in size and KL are marked."""
    out = console()
    columns = [
        words("metric"), Column("budget"), Column("bits", 5), Column("MB"), Column(sweep.points[0].accuracy.metric, 1),
        Column("drop"), Column("agreement", 3), Column("KL", 2), Column("speed", 4), Column("best", 0),
    ]  # fmt: skip
    rows = [
        Row(
            (
                point.metric, f"{point.bits:g}", f"{point.measured.weight_average:.3f}", f"{point.megabytes:.3f}",
                _percent(point.accuracy.quantized.top1), f"{point.accuracy.drop_points:.2f}",
                point.accuracy.agreement_text, point.accuracy.kl_text,
                "" if point.speedup is None else f"{point.speedup:.2f}x", "*" if point.name in sweep.front else "",
            ),
            bold=point.name == sweep.picked,
        )
        for point in sweep.points
    ]  # fmt: skip
    print_table(out, columns, rows, f"{sweep.model}: sweep")
    out.print("* Pareto-optimal in size and KL")
    if sweep.picked is not None:
        out.print(f"picked {sweep.picked} ({sweep.request}): {', '.join(PICKED_FILES)} in {folder}", markup=False)
    same = sum(point.same_as is not None for point in sweep.points)
    once = f"; {same} have the plan of another one and were measured once" if same else ""
    out.print(f"{len(sweep.points)} points{once}", markup=False)
    out.print(f"wrote sweep.json, sweep.csv and sweep.html to {folder}; next: open {folder}/sweep.html", markup=False)


def print_sensitivities(sensitivities: Sensitivities, path: Path) -> None:
    """Print the sensitivity of each layer, and where the file was written."""
    out = console()
    columns = [
        words("layer"), words("type", 3), Column("weights", 2), Column("trace"), Column("alpha", 4), Column("omega", 1),
        Column("input range", 5), words("method", 6),
    ]  # fmt: skip
    rows = [
        (
            layer.name, layer.type, f"{layer.parameters:,}", _number(layer.trace),
            "fixed" if layer.fixed else _number(sensitivities.alpha.get(layer.type)),
            "" if layer.fixed or not sensitivities.omegas else _number(sensitivities.omega(layer)),
            f"{layer.activation_range.low:.3g} .. {layer.activation_range.high:.3g}", layer.activation_range.method,
        )
        for layer in sensitivities.layers
    ]  # fmt: skip
    print_table(out, columns, rows, f"{sensitivities.model.name}: sensitivities")
    for name, reason in sensitivities.skipped.items():
        out.print(f"[yellow]note:[/] {escape(name)} stays in float: {escape(reason)}")
    out.print(f"wrote {path}", markup=False)


def print_findings(groups: Mapping[str, Sequence[Finding]]) -> None:
    """Print the findings of `doctor`, group by group."""
    out = console()
    marks = {"ok": "green", "warning": "yellow", "failure": "red"}
    for name, findings in groups.items():
        out.print(f"[bold]{escape(name)}[/]")
        for finding in findings:
            mark = f"[{marks[finding.status]}]{finding.status}[/]"
            text = f"{mark} [bold]{escape(finding.name)}[/]: {escape(finding.detail)}"
            out.print(Padding(text, (0, 0, 0, 2), expand=False))
            if finding.advice:
                out.print(Padding(f"[bold]{escape(finding.advice)}[/]", (0, 0, 0, 6), expand=False))


def print_plan(plan: BitPlan, solution: Solution | FormSolution, path: Path) -> None:
    """Print the width of each layer, and how much of each budget the plan uses."""
    out = console()
    rows = [
        (name, layer.type or "", f"{layer.bits_text}{' (fixed)' if layer.fixed else ''}", str(layer.activation_bits))
        for name, layer in plan.layers.items()
    ]
    columns = [words("layer"), words("type", 1), Column("W bits"), Column("A bits")]
    print_table(out, columns, rows, f"{plan.model or 'plan'}: weight bits")
    for usage in getattr(solution, "usage", ()):
        binds = ", binds" if usage.binds else ""
        out.print(f"{usage.used:.6g} of {usage.limit:.6g} {usage.name}{binds}", markup=False)
    _print_promise(out, plan)
    average = plan.weight_average()
    budget = "no budget" if plan.budget is None else f"budget {plan.budget:g}"
    proof = "proven optimal" if solution.proven_optimal else f"gap {100 * solution.gap:.2g} %"
    out.print(
        f"average {average if average is None else format(average, '.3f')} bits by weights, "
        f"{plan.weight_average_unweighted():.3f} by layers, {budget}; {proof} in {solution.seconds:.2f} s"
    )
    out.print(f"wrote {path}", markup=False)


def _print_promise(out: Console, plan: BitPlan) -> None:
    promised = [
        f"{plan.promised_bytes / 1e6:.3f} MB" if plan.promised_bytes else "",
        f"{plan.promised_ms:.2f} ms" if plan.promised_ms else "",
        f"agreement {_percent(plan.promised_agreement)}" if plan.promised_agreement is not None else "",
    ]
    if any(promised):
        out.print(f"predicted for the file: {', '.join(part for part in promised if part)}")


def print_conversion(conversion: Conversion, weights: Path | None, source: Path, path: Path) -> None:
    """Print how often each pass changed the graph, what was not done, and the size of the file."""
    from lampq_onnx.graph.model_file import file_bytes

    out = console()
    for name, count in conversion.passes.items():
        out.print(f"{name:24} {count}")
    print_not_done(conversion.not_done)
    if weights is not None:
        total = len(conversion.parameters)
        out.print(f"{weights.name} gave the rounding of {total - len(conversion.nearest)} of {total} layers")
        if conversion.nearest:
            out.print(f"rounded to nearest: {', '.join(conversion.nearest)}")
    out.print(f"{source} {file_bytes(source) / 1e6:.2f} MB -> {path} {file_bytes(path) / 1e6:.2f} MB", markup=False)


def print_not_done(entries: Sequence[NotDone]) -> None:
    """Print changes of the graph that were not made, a line for each reason."""
    out = console()
    for entry in entries:
        out.print(f"- {entry.sentence()}", markup=False)


def print_layers(layers: Sequence[QuantizedLayer], path: Path) -> None:
    """Print a row for each quantized layer of a file."""
    out = console()
    if not layers:
        out.print(f"{path} holds no quantized layers", markup=False)
        return
    columns = [
        words("layer"), words("type", 2), Column("W bits"), Column("A bits"), Column("storage", 3),
        Column("scheme", 5), Column("weights", 4), Column("bytes", 1), Column("bits/weight", 6),
    ]  # fmt: skip
    rows = [
        (
            layer.name, layer.type, layer.bits_text, str(layer.activation_bits), layer.storage, layer.scheme,
            f"{layer.parameters:,}", f"{layer.bytes:,}", f"{8 * layer.bytes / max(layer.parameters, 1):.2f}",
        )
        for layer in layers
    ]  # fmt: skip
    print_table(out, columns, rows, str(path))
    total = sum(layer.bytes for layer in layers)
    out.print(f"{len(layers)} quantized layers, {total / 1e6:.2f} MB of weights")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _sqnr(accuracy: Accuracy) -> str:
    return "inf" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f} dB"
