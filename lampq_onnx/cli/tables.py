"""Tables that the commands print on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.evaluation.gates import NOT_COMPARED, failed_gates, gates_of, verdict_line

if TYPE_CHECKING:
    from lampq_onnx.allocation import FormSolution, Solution
    from lampq_onnx.artifacts.finding import Finding
    from lampq_onnx.converter import Conversion
    from lampq_onnx.converter.inspect import QuantizedLayer

PLAIN_WIDTH = 110
"""Characters of a line where standard output is not a terminal."""


def console() -> Console:
    """A console on standard output, wide enough for the tables in pipes and logs."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_report(report: Report) -> None:
    """Print the result of `quantize`: layers, summary and baselines."""
    out = console()
    table = Table(title=f"{report.model}: layers", title_justify="left")
    for column in ("layer", "type"):
        table.add_column(column, no_wrap=True)
    for column in ("W bits", "A bits", "storage", "kB", "trace", "omega", "error"):
        table.add_column(column, justify="right")
    for layer in report.layers:
        table.add_row(
            layer.name,
            layer.type,
            layer.bits_text,
            str(layer.activation_bits),
            layer.storage,
            f"{layer.bytes / 1e3:.1f}",
            _number(layer.trace),
            _number(layer.omega),
            _number(layer.reconstruction_error),
        )
    out.print(table)
    print_summary(report)
    if report.baselines:
        _print_comparison(out, report)


def print_summary(report: Report) -> None:
    """Print accuracy, size, latency, bits, fidelity, notes and gates."""
    out = console()
    accuracy, size, latency, fidelity = report.accuracy, report.size, report.latency, report.fidelity
    table = Table(title=f"{report.model}: summary", title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value")
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
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for note in report.notes:
        out.print(f"[yellow]note:[/] {escape(note)}")
    _print_gates(out, report)


def _print_gates(out: Console, report: Report) -> None:
    """Print problems, then PASS or FAIL."""
    gates = gates_of(report)
    for problem in report.problems:
        out.print(f"[red]problem:[/] {escape(problem.message)}")
    out.print(f"[bold {'red' if failed_gates(gates) else 'green'}]{escape(verdict_line(gates))}[/]")


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
    table = Table(title=f"{sweep.model}: sweep", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for column in (
        "budget",
        "avg bits",
        "MB",
        sweep.points[0].accuracy.metric,
        "drop",
        "agreement",
        "KL",
        "speed",
        "Pareto-optimal",
    ):
        table.add_column(column, justify="right")
    for point in sweep.points:
        accuracy = point.accuracy
        table.add_row(
            point.metric,
            f"{point.bits:g}",
            f"{point.measured.weight_average:.3f}",
            f"{point.megabytes:.3f}",
            _percent(accuracy.quantized.top1),
            f"{accuracy.drop_points:.2f}",
            accuracy.agreement_text,
            accuracy.kl_text,
            "" if point.speedup is None else f"{point.speedup:.2f}x",
            "yes" if point.name in sweep.front else "",
            style="bold" if point.name == sweep.picked else None,
        )
    out.print(table)
    if sweep.picked is not None:
        out.print(f"picked {sweep.picked} ({sweep.request})", markup=False)
    out.print(f"wrote sweep.json, sweep.csv and sweep.html to {folder}", markup=False)


def _print_comparison(out: Console, report: Report) -> None:
    table = Table(title="float, baselines and this plan, same base quantizer and graph", title_justify="left")
    table.add_column("allocation")
    for column in ("avg bits", "MB", report.accuracy.metric, "drop", "agreement", "SQNR", "KL"):
        table.add_column(column, justify="right")
    table.add_row(
        "float",
        "32",
        f"{report.size.float_bytes / 1e6:.2f}",
        _percent(report.accuracy.float_.top1),
        "",
        "",
        "",
        "",
    )
    chosen = report.allocation.metric if report.allocation else "plan"
    rows = [(n, b.weight_average, b.quantized_bytes, b.accuracy) for n, b in report.baselines.items()]
    rows.append((f"{chosen} (this plan)", report.bits.weight_average, report.size.quantized_bytes, report.accuracy))
    for name, average, size, accuracy in rows:
        table.add_row(
            name,
            f"{average:.3f}",
            f"{size / 1e6:.2f}",
            _percent(accuracy.quantized.top1),
            f"{accuracy.drop_points:.2f}",
            accuracy.agreement_text,
            _sqnr(accuracy),
            accuracy.kl_text,
        )
    out.print(table)


def print_sensitivities(sensitivities: Sensitivities, path: Path) -> None:
    """Print the sensitivity of each layer, and where the file was written."""
    out = console()
    table = Table(title=f"{sensitivities.model.name}: sensitivities", title_justify="left")
    for column in ("layer", "type"):
        table.add_column(column, no_wrap=True)
    for column in ("weights", "trace", "alpha", "omega", "input range", "method"):
        table.add_column(column, justify="right")
    for layer in sensitivities.layers:
        interval = layer.activation_range
        table.add_row(
            layer.name,
            layer.type,
            f"{layer.parameters:,}",
            _number(layer.trace),
            "fixed" if layer.fixed else _number(sensitivities.alpha.get(layer.type)),
            "" if layer.fixed or not sensitivities.omegas else _number(sensitivities.omega(layer)),
            f"{interval.low:.3g} .. {interval.high:.3g}",
            interval.method,
        )
    out.print(table)
    for name, reason in sensitivities.skipped.items():
        out.print(f"[yellow]note:[/] {escape(name)} stays in float: {escape(reason)}")
    out.print(f"wrote {path}", markup=False)


def print_findings(groups: Mapping[str, Sequence[Finding]]) -> None:
    """Print the findings of `doctor`, a table for each group."""
    out = console()
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failure": "[red]failure[/]"}
    for name, findings in groups.items():
        table = Table(title=escape(name), title_justify="left", show_lines=True)
        for column in ("", "what", "found"):
            table.add_column(column)
        for finding in findings:
            advice = f"\n[bold]{escape(finding.advice)}[/]" if finding.advice else ""
            table.add_row(marks[finding.status], escape(finding.name), escape(finding.detail) + advice)
        out.print(table)


def print_plan(plan: BitPlan, solution: Solution | FormSolution, path: Path) -> None:
    """Print the width of each layer, and how much of each budget the plan uses."""
    out = console()
    table = Table(title=f"{plan.model or 'plan'}: weight bits", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in ("type", "W bits", "A bits"):
        table.add_column(column, justify="right")
    for name, layer in plan.layers.items():
        fixed = " (fixed)" if layer.fixed else ""
        table.add_row(name, layer.type or "", f"{layer.bits_text}{fixed}", str(layer.activation_bits))
    out.print(table)
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
        out.print(f"- {entry.sentence()}", markup=False, highlight=False, soft_wrap=True)


def print_layers(layers: Sequence[QuantizedLayer], path: Path) -> None:
    """Print a row for each quantized layer of a file."""
    out = console()
    if not layers:
        out.print(f"{path} holds no quantized layers", markup=False)
        return
    table = Table(title=escape(str(path)), title_justify="left")
    for column in ("layer", "type"):
        table.add_column(column, no_wrap=True)
    for column in ("W bits", "A bits", "storage", "scheme", "weights", "bytes", "bits/weight"):
        table.add_column(column, justify="right")
    for layer in layers:
        table.add_row(
            layer.name,
            layer.type,
            layer.bits_text,
            str(layer.activation_bits),
            layer.storage,
            layer.scheme,
            f"{layer.parameters:,}",
            f"{layer.bytes:,}",
            f"{8 * layer.bytes / max(layer.parameters, 1):.2f}",
        )
    out.print(table)
    total = sum(layer.bytes for layer in layers)
    out.print(f"{len(layers)} quantized layers, {total / 1e6:.2f} MB of weights")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _sqnr(accuracy: Accuracy) -> str:
    return "inf" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f} dB"
