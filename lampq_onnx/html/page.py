"""Render one HTML page with figures from a template."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lampq_onnx.html.theme import DARK, GRID, INK, MUTED
from lampq_onnx.html.words import WORDS


@dataclass(frozen=True)
class Figure:
    """A plot and its text.

    Attributes:
        key: id of the HTML element.
        plot: the Plotly figure.
        alt: what the plot shows, for people who cannot see it.
    """

    key: str
    plot: go.Figure
    alt: str


def text(value: str) -> str:
    """Escape a name for Plotly, which reads tags in texts."""
    return html.escape(value, quote=False)


def figure(key: str, plot: go.Figure, alt: str, *, height: int) -> Figure:
    """Style a plot for the page.

    Args:
        key: id of the HTML element.
        plot: the Plotly figure.
        alt: what the plot shows, for people who cannot see it.
        height: in CSS pixels; the width is the page's.
    """
    plot.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"color": MUTED}},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}, "align": "left"},
        dragmode=False,
        template=None,
    )
    axis = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "automargin": True, "fixedrange": True}
    plot.update_xaxes(tickfont={"color": MUTED}, **axis)
    plot.update_yaxes(tickfont={"color": MUTED}, **axis)
    return Figure(key, plot, alt)


def render(template: str, figures: list[Figure], values: Mapping[str, Any]) -> str:
    """Render the page as one text, with script, style and data inside.

    Args:
        template: name of a file in templates/.
        figures: figures of the page.
        values: values for the template; text in them is escaped.
    """
    data = {item.key: item.plot.to_plotly_json() for item in figures}
    return (
        _environment()
        .get_template(template)
        .render(
            values,
            figures={item.key: item for item in figures},
            glossary=WORDS,
            data=_script_json(data),
            dark=_script_json(DARK),
            plotly=Markup(get_plotlyjs()),
        )
    )


def _script_json(value: object) -> Markup:
    """Return JSON that is safe inside a script element, whatever the texts contain."""
    escaped = json.dumps(value, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        escaped = escaped.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(escaped)


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("lampq_onnx.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = lambda value: f"{100 * value:.2f} %"
    found.filters["number"] = lambda value: "" if value is None else f"{value:.3g}"
    return found
