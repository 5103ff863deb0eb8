"""A small picture of the graph: the layers in their order, block by block, with the bits and the kernel of each."""

from __future__ import annotations

import html
from collections.abc import Sequence

from markupsafe import Markup

from lampq_onnx.artifacts.report import LayerReport
from lampq_onnx.html.places import place_of
from lampq_onnx.html.theme import WIDTHS

BOX, HEIGHT, GAP, LABEL = 118, 24, 14, 96
"""Width and height of a layer, space between two, and room for the name of a row, in pixels."""

LONGEST_ROW, LONGEST_TYPE = 14, 11
"""Letters of a row's name and of a layer's that fit; longer ones are cut, and whole in the title of the box."""

MOST_ROWS = 40
"""Rows that are drawn; deeper models are cut, and the picture says so."""

_LIGHT_INK = 5
"""Widths from this one on have a dark colour, and white letters."""


def graph_picture(layers: Sequence[LayerReport]) -> Markup | None:
    """Draw the layers as SVG, a row for each block; None without layers."""
    rows = _rows(layers)
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    widest = max(len(row) for _, row in shown)
    width, height = LABEL + widest * (BOX + GAP), len(shown) * (HEIGHT + GAP) + 4
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{len(layers)} quantized layers in their order, with the bits of each" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for place, (name, row) in enumerate(shown):
        y = place * (HEIGHT + GAP) + 2
        parts.append(f'<text x="0" y="{y + 16}" fill="var(--muted)">{_text(_cut(name, LONGEST_ROW))}</text>')
        for column, layer in enumerate(row):
            parts += _box(layer, LABEL + column * (BOX + GAP), y, last=column == len(row) - 1)
    parts.append("</svg>")
    return Markup("".join(parts))


def graph_caption(layers: Sequence[LayerReport]) -> str:
    """Say what the picture shows."""
    rows = len(_rows(layers))
    text = "Each box is a layer with the bits of its weights and of its input; a dashed one runs on the float kernel."
    return text if rows <= MOST_ROWS else f"{text} The first {MOST_ROWS} of {rows} rows are drawn."


def on_float_kernel(layer: LayerReport) -> bool:
    """Whether the width of the inputs keeps a layer from an integer kernel."""
    return layer.activation_bits > 8


def _rows(layers: Sequence[LayerReport]) -> list[tuple[str, list[LayerReport]]]:
    """Name of each row and its layers: those of a block, or one that is in none."""
    rows: list[tuple[str, list[LayerReport]]] = []
    for layer in layers:
        place = place_of(layer.name)
        name = layer.name.partition(".")[0] if place is None else f"block {place.column}"
        if rows and rows[-1][0] == name and place is not None:
            rows[-1][1].append(layer)
        else:
            rows.append((name, [layer]))
    return rows


def _box(layer: LayerReport, x: int, y: int, *, last: bool) -> list[str]:
    place = place_of(layer.name)
    short = (place.row if place else layer.type).rpartition(".")[2]
    width = round(layer.mean_weight_bits)
    bits = f"{_bits(layer.mean_weight_bits)}/{_bits(layer.activation_bits)}"
    ink = "#ffffff" if _LIGHT_INK < width <= 8 else "#1b1b1a"
    dashed = ' stroke-dasharray="4 3"' if on_float_kernel(layer) else ""
    kernel = "float kernel" if on_float_kernel(layer) else "integer kernel where the target has one"
    colour = WIDTHS.get(width, WIDTHS[32])
    title = f"{layer.name}: weights {layer.bits_text} bits, inputs {layer.activation_bits} bits, {kernel}"
    parts = [
        f"<g><title>{_text(title)}</title>",
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="4" fill="{colour}" stroke="var(--ink)" '
        f'stroke-width="0.7"{dashed}/>',
        f'<text x="{x + 7}" y="{y + 16}" fill="{ink}">{_text(_cut(short, LONGEST_TYPE))}</text>',
        f'<text x="{x + BOX - 7}" y="{y + 16}" fill="{ink}" text-anchor="end" font-weight="600">{bits}</text></g>',
    ]
    if not last:
        middle = y + HEIGHT // 2
        parts.append(f'<path d="M{x + BOX} {middle}h{GAP - 4}m-4 -3l4 3l-4 3" fill="none" stroke="var(--muted)"/>')
    return parts


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _bits(width: float) -> str:
    return "float" if width == 32 else f"{width:.3g}"


def _text(value: str) -> str:
    return html.escape(value)
