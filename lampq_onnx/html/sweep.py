"""The HTML page of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import plotly.graph_objects as go

from lampq_onnx.artifacts.report import Report
from lampq_onnx.artifacts.sweep import Sweep, SweepPoint
from lampq_onnx.disk.files import PAGE_FILE, write_atomic
from lampq_onnx.evaluation.gates import failed_gates, gates_of, verdict_line
from lampq_onnx.html.facts import LINKED, facts
from lampq_onnx.html.page import Figure, figure, render, text
from lampq_onnx.html.theme import FLOAT, INK, MUTED, SERIES
from lampq_onnx.html.words import Head, Line

Axis = tuple[str, Callable[[SweepPoint], float | None]]

_SIZE: Axis = ("MB", lambda point: point.megabytes)
_KL: Axis = ("KL to float, nats", lambda point: point.accuracy.kl)
_SCORE: Axis = ("%", lambda point: 100 * point.accuracy.quantized.top1)
_SPEED: Axis = ("speed, float = 1", lambda point: point.speedup)


COLUMNS = ("metric", "budget", "bits", "MB", "", "drop", "agreement", "KL", "speed", "Pareto-optimal")
_TERMS = {"drop": "drop", "agreement": "agreement", "KL": "kl", "speed": "speed", "Pareto-optimal": "pareto"}


def sweep_page(sweep: Sweep, files: Sequence[str] = (), picked: Report | None = None) -> str:
    """Return the whole page as text.

    Args:
        sweep: the sweep.
        files: names of files beside the page, to which it links.
        picked: report of the picked file, whose gates the page shows first; None: none was picked.
    """
    gates = () if picked is None else gates_of(picked)
    metric = sweep.points[0].accuracy.metric
    plots = [
        _plot("kl_size", sweep, _SIZE, _KL, "KL to the float model against size", log=True),
        _plot("score_size", sweep, _SIZE, _SCORE, f"{metric} against size", log=False),
        _plot("kl_speed", sweep, _SPEED, _KL, "KL to the float model against speed", log=True),
    ]
    first = sweep.points[0]
    latency = first.measured.latency
    return render(
        "sweep.html",
        plots,
        {
            "title": f"{sweep.model}: sweep of budgets",
            "sweep": sweep,
            "gate_line": verdict_line(gates) if picked else "",
            "failed": failed_gates(gates),
            "metric": metric,
            "facts": facts(sweep.written, sweep.environment, (), "sweep"),
            "links": [name for name in (*LINKED, PAGE_FILE) if name in files and name != "sweep.html"],
            "columns": [
                Head(name or metric, number=name not in ("metric", "Pareto-optimal"), term=_TERMS.get(name, ""))
                for name in COLUMNS
            ],
            "points": [_line(sweep, point) for point in sweep.points],
            "summary": _summary(sweep),
            "machine": f"{first.accuracy.samples} images; {sweep.environment.cpu}"
            + (
                f", batch {latency.batch}, {latency.threads} thread(s), float and each file measured alternately"
                if latency
                else ""
            ),
        },
    )


def write_sweep(sweep: Sweep, path: Path, files: Sequence[str] = (), picked: Report | None = None) -> None:
    """Write the HTML page, atomically; see `sweep_page`."""
    write_atomic(path, sweep_page(sweep, files, picked).encode())


def _line(sweep: Sweep, point: SweepPoint) -> Line:
    accuracy = point.accuracy
    cells = (
        point.metric,
        f"{point.bits:g}",
        f"{point.measured.weight_average:.3f}",
        f"{point.megabytes:.3f}",
        f"{100 * accuracy.quantized.top1:.2f} %",
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        accuracy.agreement_text,
        accuracy.kl_text,
        "" if point.speedup is None else f"{point.speedup:.2f}x",
        "yes" if point.name in sweep.front else "",
    )
    return Line(cells, point.name == sweep.picked)


def _summary(sweep: Sweep) -> str:
    by_metric = {point.metric: 0 for point in sweep.points}
    for name in sweep.front:
        point = next(point for point in sweep.points if point.name == name)
        by_metric[point.metric] += 1
    shares = ", ".join(f"{count} by {metric}" for metric, count in by_metric.items())
    line = f"{len(sweep.front)} of {len(sweep.points)} points are Pareto-optimal in size and KL ({shares})."
    same = sum(point.same_as is not None for point in sweep.points)
    if same:
        line += f" {same} of them have the plan of another one, and were measured once."
    if sweep.picked is None:
        return line
    point = next(point for point in sweep.points if point.name == sweep.picked)
    return (
        f"Picked by {sweep.request}: {point.metric} at {point.bits:g} bits, {point.megabytes:.2f} MB, "
        f"{point.accuracy.metric} {100 * point.accuracy.quantized.top1:.2f} %, drop {point.accuracy.drop_points:.2f} ± "
        f"{point.accuracy.standard_error_points:.2f}. {line}"
    )


def _plot(key: str, sweep: Sweep, x: Axis, y: Axis, alt: str, *, log: bool) -> Figure:
    plot = go.Figure()
    metrics = list(dict.fromkeys(point.metric for point in sweep.points))
    for metric in metrics:
        own = [point for point in sweep.points if point.metric == metric and x[1](point) is not None]
        plot.add_trace(
            go.Scatter(
                x=[x[1](point) for point in own],
                y=[y[1](point) for point in own],
                name=text(metric),
                mode="markers+text" if x is _SPEED else "lines+markers+text",
                text=[f"{point.bits:g}" for point in own],
                textposition="top center" if metrics.index(metric) == 0 else "bottom center",
                textfont={"size": 10, "color": MUTED},
                error_x=_bars(_speed_spread(own)) if x is _SPEED else None,
                error_y=_bars(_score_spread(own)) if y is _SCORE else None,
                line={"color": SERIES[min(metrics.index(metric), len(SERIES) - 1)], "width": 2},
                marker={"size": [12 if point.name == sweep.picked else 7 for point in own]},
                cliponaxis=False,
                customdata=[_words(point) for point in own],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    if y is _SCORE:
        level = 100 * sweep.points[0].accuracy.float_.top1
        plot.add_hline(
            y=level,
            line={"color": FLOAT, "dash": "dot"},
            annotation={"text": "float", "font": {"color": MUTED}},
            annotation_position="top left",
        )
    elif x is _SIZE:
        front = [point for name in sweep.front for point in sweep.points if point.name == name]
        plot.add_trace(
            go.Scatter(
                x=[x[1](point) for point in front],
                y=[y[1](point) for point in front],
                name="Pareto-optimal",
                mode="markers",
                marker={"size": 13, "symbol": "circle-open", "color": INK, "line": {"width": 1.5}},
                hoverinfo="skip",
            )
        )
    plot.update_xaxes(title={"text": x[0], "font": {"color": MUTED}})
    plot.update_yaxes(title={"text": y[0], "font": {"color": MUTED}}, type="log" if log else "linear")
    if log:
        plot.update_yaxes(dtick="D2")  # labels at 1, 2 and 5: more of them overlap
    return figure(key, plot, alt, height=380)


_Spread = tuple[list[float], list[float]]


def _score_spread(points: Sequence[SweepPoint]) -> _Spread:
    """One standard error to both sides, in points."""
    errors = [point.accuracy.standard_error_points for point in points]
    return errors, errors


def _speed_spread(points: Sequence[SweepPoint]) -> _Spread:
    """From the median to the quartiles."""
    known = [point.measured.latency for point in points]
    high = [0.0 if found is None else max(found.speedup_quartiles[1] - found.speedup, 0.0) for found in known]
    low = [0.0 if found is None else max(found.speedup - found.speedup_quartiles[0], 0.0) for found in known]
    return high, low


def _bars(spread: _Spread) -> dict[str, object]:
    high, low = spread
    return {"type": "data", "array": high, "arrayminus": low, "symmetric": False, "thickness": 1, "width": 3}


def _words(point: SweepPoint) -> str:
    accuracy = point.accuracy
    lines = [
        f"<b>{text(point.metric)}, {point.bits:g} bits</b>",
        f"{point.megabytes:.3f} MB, {point.measured.weight_average:.3f} bits on average",
        f"{text(accuracy.metric)} {100 * accuracy.quantized.top1:.2f} %, drop {accuracy.drop_points:.2f} ± "
        f"{accuracy.standard_error_points:.2f}",
        f"agreement {accuracy.agreement_text}, KL {accuracy.kl_text}",
    ]
    if point.speedup is not None:
        lines.append(f"{point.speedup:.2f}x of float's speed")
    return "<br>".join(lines)
