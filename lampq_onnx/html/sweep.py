"""The HTML page of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go

from lampq_onnx.artifacts.sweep import Sweep, SweepPoint
from lampq_onnx.disk.files import write_atomic
from lampq_onnx.html.page import Figure, figure, render, text
from lampq_onnx.html.theme import FLOAT, INK, MUTED, SERIES

Axis = tuple[str, Callable[[SweepPoint], float | None]]

_SIZE: Axis = ("MB", lambda point: point.megabytes)
_KL: Axis = ("KL to float, nats", lambda point: point.accuracy.kl)
_SCORE: Axis = ("%", lambda point: 100 * point.accuracy.quantized.top1)
_SPEED: Axis = ("speed, float = 1", lambda point: point.speedup)


def sweep_page(sweep: Sweep) -> str:
    """Return the whole page as text."""
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
            "metric": metric,
            "summary": _summary(sweep),
            "machine": f"{first.accuracy.samples} images; {sweep.environment.cpu}"
            + (
                f", batch {latency.batch}, {latency.threads} thread(s), float and each file measured alternately"
                if latency
                else ""
            ),
        },
    )


def write_sweep(sweep: Sweep, path: Path) -> None:
    """Write the HTML page, atomically."""
    write_atomic(path, sweep_page(sweep).encode())


def _summary(sweep: Sweep) -> str:
    by_metric = {point.metric: 0 for point in sweep.points}
    for name in sweep.front:
        point = next(point for point in sweep.points if point.name == name)
        by_metric[point.metric] += 1
    shares = ", ".join(f"{count} by {metric}" for metric, count in by_metric.items())
    line = f"{len(sweep.front)} of {len(sweep.points)} points are Pareto-optimal in size and KL ({shares})."
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
                mode="markers" if x is _SPEED else "lines+markers",
                line={"color": SERIES[min(metrics.index(metric), len(SERIES) - 1)], "width": 2},
                marker={"size": [12 if point.name == sweep.picked else 7 for point in own]},
                customdata=[_words(point) for point in own],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    if y is _SCORE:
        level = 100 * sweep.points[0].accuracy.float_.top1
        plot.add_hline(
            y=level, line={"color": FLOAT, "dash": "dot"}, annotation={"text": "float", "font": {"color": MUTED}}
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
    return figure(key, plot, alt, height=360)


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
