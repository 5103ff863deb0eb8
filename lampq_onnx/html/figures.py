"""The Plotly figures of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lampq_onnx.artifacts.channel_widths import counts_text
from lampq_onnx.artifacts.details import AnswerChanges, OperatorTimes, OutputErrors
from lampq_onnx.artifacts.report import LayerReport
from lampq_onnx.html.page import Figure, figure, text
from lampq_onnx.html.places import Place, place_of, places_of
from lampq_onnx.html.theme import BETTER, FLOAT, INK, MUTED, QUANTIZED, SERIES, WIDTHS, WORSE

MOST_OPERATORS = 12
MOST_CLASSES = 30
ROW = 30
"""Height in pixels of one row of the bit map, or of one bar."""
STRIP, STRIP_WIDTH = (0.27, 0.45), 0.92
"""Edges below the middle and width of the strip that shows the widths inside a layer, in cells of the bit map."""


def bit_map(layers: Sequence[LayerReport]) -> Figure | None:
    """Draw weight bits and input bits by block and layer; None without blocks.

    Input bits are left out if all are the same. Where output channels differ in width, the colour and the number are
    those of the average, and a strip at the lower edge of the cell shows the share of each width.
    """
    found = [(place, layer) for layer in layers if (place := place_of(layer.name)) is not None]
    if not found:
        return None
    columns, rows = places_of(place for place, _ in found)
    by_place = dict(found)
    mixed = len({layer.activation_bits for _, layer in found}) > 1
    titles = ("bits of the weights", "bits of the inputs") if mixed else ("bits of the weights",)
    plot = make_subplots(rows=len(titles), cols=1, subplot_titles=titles, vertical_spacing=0.16)
    for position, _ in enumerate(titles, 1):

        def width(layer: LayerReport, which: int = position) -> float:
            return layer.mean_weight_bits if which == 1 else layer.activation_bits

        cells = [[by_place.get(Place(column, row)) for column in columns] for row in rows]
        plot.add_trace(
            go.Heatmap(
                x=[text(column) for column in columns],
                y=[text(row) for row in rows],
                z=[[None if cell is None else _rank(width(cell)) for cell in line] for line in cells],
                text=[["" if cell is None else _number(width(cell)) for cell in line] for line in cells],
                customdata=[["" if cell is None else _figures(cell) for cell in line] for line in cells],
                texttemplate="%{text}",
                hovertemplate="%{customdata}<extra></extra>",
                colorscale=_scale(),
                zmin=-0.5,
                zmax=len(WIDTHS) - 0.5,
                showscale=False,
                xgap=2,
                ygap=2,
                hoverongaps=False,
            ),
            row=position,
            col=1,
        )
    placed = {
        (x, y): by_place.get(Place(column, row)) for x, column in enumerate(columns) for y, row in enumerate(rows)
    }
    plot.update_layout(  # at once, since plotly checks all shapes at each that is added
        shapes=[
            part
            for (x, y), layer in placed.items()
            if layer is not None and layer.channel_bits is not None
            for part in _mix_parts(x, y, layer.channel_bits)
        ]
    )
    plot.update_xaxes(type="category", showgrid=False)
    plot.update_xaxes(title={"text": "block", "font": {"color": MUTED}}, row=len(titles), col=1)
    plot.update_yaxes(type="category", autorange="reversed", showgrid=False)
    plot.update_annotations(font={"size": 12, "color": MUTED}, x=0, xanchor="left")
    height = 90 + len(titles) * (ROW * len(rows) + 40)
    return figure("bits", plot, "Bit-width of every layer, blocks by layers of a block", height=height)


def _mix_parts(x: int, y: int, counts: Mapping[int, int]) -> Iterator[dict[str, object]]:
    """Yield the shapes of a strip in a layer's cell: the shares of the widths of its output channels."""
    total, left = sum(counts.values()), x - STRIP_WIDTH / 2
    for bits, count in counts.items():
        right = left + STRIP_WIDTH * count / total
        yield {
            "type": "rect", "x0": left, "x1": right, "y0": y + STRIP[0], "y1": y + STRIP[1], "fillcolor": WIDTHS[bits],
            "line": {"width": 0}, "xref": "x", "yref": "y",
        }  # fmt: skip
        left = right


def _rank(bits: float) -> float:
    """Return the place of a width among the colours; an average takes the colour of the nearest width."""
    known = list(WIDTHS)
    below = max(width for width in known if width <= bits)
    return known.index(below) + (0 if bits == below else bits - below)


def _number(bits: float) -> str:
    """Format a width, or the average of several."""
    return str(int(bits)) if bits == int(bits) else f"{bits:.1f}"


def _scale() -> list[tuple[float, str]]:
    """Make a colour scale with one step per width."""
    steps = len(WIDTHS)
    return [
        point
        for rank, colour in enumerate(WIDTHS.values())
        for point in ((rank / steps, colour), ((rank + 1) / steps, colour))
    ]


def _figures(layer: LayerReport) -> str:
    lines = [
        f"<b>{text(layer.name)}</b>",
        f"weights {layer.bits_text} bits, inputs {layer.activation_bits} bits",
        f"{layer.parameters:,} weights in {layer.bytes / 1e3:,.1f} kB ({text(layer.storage)})",
    ]
    if layer.channel_bits is not None:
        lines.insert(2, counts_text(layer.channel_bits))
    if layer.omega is not None and layer.trace is not None:
        lines.append(f"trace {layer.trace:.3g}, scaled {layer.omega:.3g}")
    if layer.reconstruction_error is not None:
        lines.append(f"error of its output {100 * layer.reconstruction_error:.2g} %")
    if layer.rounding:
        lines.append(f"rounding {text(layer.rounding)}")
    return "<br>".join(lines)


def sensitivities(layers: Sequence[LayerReport]) -> Figure | None:
    """Draw traces, and traces times their type's factor, by block; None if they were not measured."""
    measured = [
        (place, layer) for layer in layers if layer.trace is not None and (place := place_of(layer.name)) is not None
    ]
    if not measured:
        return None
    columns, rows = places_of(place for place, _ in measured)
    by_place = dict(measured)
    plot = make_subplots(rows=1, cols=2, subplot_titles=("before: tr(F)", "after: Ω = α tr(F)"), horizontal_spacing=0.1)
    for row in rows:
        own = [by_place.get(Place(column, row)) for column in columns]
        for position in (1, 2):
            values = [None if cell is None else cell.trace if position == 1 else cell.omega for cell in own]
            plot.add_trace(
                go.Scatter(
                    x=[text(column) for column in columns],
                    y=[_positive(value) for value in values],
                    name=text(row),
                    legendgroup=text(row),
                    showlegend=position == 1,
                    mode="lines+markers",
                    line={"color": colour_of(row, rows), "width": 2},
                    marker={"size": 6},
                    hovertemplate=f"{text(row)} of %{{x}}: %{{y:.3g}}<extra></extra>",
                ),
                row=1,
                col=position,
            )
    plot.update_yaxes(type="log", dtick=1)
    plot.update_xaxes(type="category", showgrid=False, title={"text": "block", "font": {"color": MUTED}})
    plot.update_annotations(font={"size": 12, "color": MUTED})
    made = figure("sensitivities", plot, "Sensitivity of every layer before and after scaling by type", height=340)
    return _legend_below(made)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _legend_below(made: Figure) -> Figure:
    made.plot.update_layout(legend={"y": -0.36, "yanchor": "top"})
    return made


def colour_of(row: str, rows: Sequence[str]) -> str:
    """Return the colour of a kind of layer; kinds beyond the palette share the last colour."""
    return SERIES[min(list(rows).index(row), len(SERIES) - 1)]


def output_errors(errors: OutputErrors) -> Figure | None:
    """Draw the SQNR at block outputs as a line and at layer outputs as dots; None without blocks."""
    blocks = [output for output in errors.outputs if output.kind == "block"]
    if not blocks:
        return None
    layers = [
        (place, output)
        for output in errors.outputs
        if output.kind == "layer" and (place := place_of(output.name)) is not None
    ]
    columns, rows = places_of(place for place, _ in layers)
    plot = go.Figure()
    for row in rows:
        own = [(place, output) for place, output in layers if place.row == row]
        plot.add_trace(
            go.Scatter(
                x=[text(place.column) for place, _ in own],
                y=[output.sqnr_db for _, output in own],
                name=text(row),
                mode="markers",
                marker={"size": 6, "color": colour_of(row, rows)},
                hovertemplate=f"output of {text(row)} in %{{x}}: %{{y:.1f}} dB<extra></extra>",
            )
        )
    plot.add_trace(
        go.Scatter(
            x=[text(short(output.name)) for output in blocks],
            y=[output.sqnr_db for output in blocks],
            name="output of the block",
            mode="lines+markers",
            line={"color": INK, "width": 2.5},
            marker={"size": 8},
            hovertemplate="output of block %{x}: %{y:.1f} dB<extra></extra>",
        )
    )
    plot.update_xaxes(
        type="category", categoryorder="array", categoryarray=[text(column) for column in columns], showgrid=False
    )
    plot.update_xaxes(title={"text": "block", "font": {"color": MUTED}})
    plot.update_yaxes(title={"text": "SQNR, dB", "font": {"color": MUTED}})
    return _legend_below(figure("errors", plot, "Signal to quantization noise at every block's output", height=340))


def short(block: str) -> str:
    """Shorten a block's name for the figures."""
    place = place_of(block + ".x")
    return block if place is None else place.column


def operators(times: OperatorTimes) -> Figure:
    """Draw the time of both files by operator type; small times are summed up."""
    shown, rest = list(times.operators[:MOST_OPERATORS]), times.operators[MOST_OPERATORS:]
    rows = [(o.operator, o.float_ms, o.quantized_ms, o.float_nodes, o.quantized_nodes) for o in shown]
    if rest:
        rows.append(
            (
                f"{len(rest)} others",
                math.fsum(o.float_ms for o in rest),
                math.fsum(o.quantized_ms for o in rest),
                sum(o.float_nodes for o in rest),
                sum(o.quantized_nodes for o in rest),
            )
        )
    plot = go.Figure()
    for name, colour, column in (("float", FLOAT, 1), ("quantized", QUANTIZED, 2)):
        plot.add_trace(
            go.Bar(
                y=[text(row[0]) for row in rows],
                x=[row[column] for row in rows],
                customdata=[row[column + 2] for row in rows],
                name=name,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}, {name}: %{{x:.3f}} ms in %{{customdata}} nodes<extra></extra>",
            )
        )
    plot.update_layout(barmode="group", bargap=0.25, bargroupgap=0.08)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    plot.update_xaxes(title={"text": "ms per run", "font": {"color": MUTED}})
    return figure("operators", plot, "Milliseconds by operator type, float and quantized", height=100 + ROW * len(rows))


def classes(changes: AnswerChanges) -> Figure | None:
    """Draw how many images each class gained or lost, for the most changed classes; None if none changed."""
    changed = [(found, found.quantized_right - found.float_right) for found in changes.classes]
    changed = sorted((pair for pair in changed if pair[1]), key=lambda pair: (pair[1], pair[0].label))
    if not changed:
        return None
    if len(changed) > MOST_CLASSES:
        changed = sorted(sorted(changed, key=lambda pair: -abs(pair[1]))[:MOST_CLASSES], key=lambda pair: pair[1])
    plot = go.Figure(
        go.Bar(
            x=[text(_class_name(changes, found.label)) for found, _ in changed],
            y=[difference for _, difference in changed],
            width=min(0.7, 0.07 * len(changed)),
            marker={"color": [WORSE if difference < 0 else BETTER for _, difference in changed]},
            customdata=[(found.float_right, found.quantized_right, found.samples) for found, _ in changed],
            hovertemplate=(
                "class %{x}: %{customdata[0]} right in float, %{customdata[1]} quantized, of %{customdata[2]}"
                "<extra></extra>"
            ),
        )
    )
    plot.update_xaxes(type="category", title={"text": "class", "font": {"color": MUTED}}, showgrid=False)
    plot.update_yaxes(
        title={"text": "right answers, change", "font": {"color": MUTED}},
        tickformat="d",
        dtick=max(1, round(max(abs(d) for _, d in changed) / 3)),
    )
    return figure("classes", plot, "Change of right answers by class", height=250)


def _class_name(changes: AnswerChanges, label: int) -> str:
    """Name of a class, short enough for an axis; the index keeps equal names apart."""
    name = changes.names.get(label)
    return str(label) if name is None else f"{label} {name.partition(',')[0][:18]}"


def present(*figures: Figure | None) -> list[Figure]:
    """Return the figures that have something to show."""
    return [found for found in figures if found is not None]
