"""The page that compares two runs."""

from __future__ import annotations

import plotly.graph_objects as go

from lampq_onnx.artifacts import Report
from lampq_onnx.evaluation.two_runs import TwoRuns
from lampq_onnx.html.page import Figure, figure, render, text
from lampq_onnx.html.theme import FLOAT, MUTED, QUANTIZED
from lampq_onnx.html.words import Head, Line


def compare_page(found: TwoRuns, first: Report, second: Report) -> str:
    """Return the whole page as text.

    Args:
        found: the comparison.
        first: report of the first run.
        second: report of the second run.
    """
    one, two = found.names
    return render(
        "compare.html",
        [_bits(found, first, second)],
        {
            "title": f"{one} and {two}: comparison",
            "found": found,
            "figure_columns": (Head("figure"), Head(one, number=True), Head(two, number=True)),
            "figure_rows": [Line((row.name, row.first, row.second)) for row in found.figures],
            "width_columns": (
                Head("layer", code=True),
                Head(f"bits in {one}", number=True),
                Head(f"bits in {two}", number=True),
                Head("bytes", number=True),
            ),
            "width_rows": [
                Line((row.layer, row.first or "float", row.second or "float", f"{row.bytes:+,}"))
                for row in found.widths
            ],
        },
    )


def _bits(found: TwoRuns, first: Report, second: Report) -> Figure:
    """Weight bits of every layer in both runs."""
    names = list(dict.fromkeys(layer.name for layer in (*first.layers, *second.layers)))
    plot = go.Figure()
    for report, name, colour in ((first, found.names[0], FLOAT), (second, found.names[1], QUANTIZED)):
        bits = {layer.name: layer.mean_weight_bits for layer in report.layers}
        plot.add_trace(
            go.Scatter(
                x=[text(layer) for layer in names],
                y=[bits.get(layer) for layer in names],
                name=text(name),
                mode="lines+markers",
                line={"color": colour, "width": 2, "shape": "hv"},
                marker={"size": 6},
                hovertemplate="%{x}: %{y} bits<extra></extra>",
            )
        )
    plot.update_xaxes(showticklabels=False, showgrid=False, title={"text": "layers", "font": {"color": MUTED}})
    plot.update_yaxes(dtick=1, title={"text": "weight bits", "font": {"color": MUTED}})
    return figure("bits", plot, "Weight bits of every layer in both runs", height=300)
