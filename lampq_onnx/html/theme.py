"""Colours of the pages, each with its dark counterpart. Figures hold the light ones; the page swaps them."""

from __future__ import annotations

INK, MUTED, GRID, SURFACE = "#1b1b1a", "#6b6a66", "#e4e3df", "#fcfcfb"
FLOAT, QUANTIZED, WORSE, BETTER = "#8a8984", "#2a78d6", "#d84a49", "#16966a"

SERIES = ("#2b79d7", "#17a673", "#d99200", "#7a55c7", "#c2528b", "#5f7f2e", "#8b8a85")
"""Colours of lines of different kinds; the last is for the rest."""

WIDTHS = {
    1: "#e3effc",
    2: "#cde2fb",
    3: "#b7d3f6",
    4: "#95bef2",
    5: "#6da7ec",
    6: "#3f8ae6",
    7: "#256abf",
    8: "#184f95",
    16: "#e08a00",
    32: "#9a9994",
}
"""Colours of widths: more bits are darker; 16 stands for the float kernel and 32 for float."""

_DARK_WIDTHS = ("#0f2f59", "#143f76", "#1b5092", "#2261ad", "#2d75cb", "#4f93e3", "#83b4ef", "#b9d6f8")

DARK = {
    INK: "#f2f1ee",
    MUTED: "#a9a8a2",
    GRID: "#3a3a37",
    SURFACE: "#1a1a19",
    FLOAT: "#a3a29c",
    QUANTIZED: "#4a93ea",
    WORSE: "#ee7470",
    BETTER: "#3cc08f",
    **dict(zip(SERIES, ("#4b94eb", "#2fbd8a", "#e6a830", "#a488e6", "#dd7fae", "#93b35c", "#a4a39d"), strict=True)),
    **dict(zip(WIDTHS.values(), (*_DARK_WIDTHS, "#e6a031", "#85847f"), strict=True)),
}
"""Light colour -> dark colour."""
