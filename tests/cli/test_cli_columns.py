"""Tables at several widths: columns are left out, digits never."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lampq_onnx.cli.columns import PIPED, Column, Row, print_table, words

NAMES = [f"blocks.{i}.attn.qkv" for i in range(3)] + ["model.vision_tower.encoder.layers.23.self_attn.out_proj"]
COLUMNS = [words("layer"), words("type", 2), Column("bits"), *(Column(f"figure {i}", i) for i in range(1, 8))]
ROWS = [(name, "qkv", "8", *(f"{1234.5 * (k + 1) * (i + 1):.4f}" for k in range(7))) for i, name in enumerate(NAMES)]


def printed(width: int, columns=COLUMNS, rows=ROWS) -> str:
    out = io.StringIO()
    print_table(Console(file=out, width=width, color_system=None), columns, rows)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 140, PIPED])
def test_digits_stay_whole(width: int) -> None:
    text = printed(width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    heading = text.splitlines()[0]
    figures = {cell for row in ROWS for cell in row[2:]}
    assert set(re.findall(r"\d+\.\d{4}", text)) <= figures
    shown = [column for column in COLUMNS if column.name in heading]
    for place, column in enumerate(COLUMNS):
        if column in shown and column.number:
            assert all(row[place] in text for row in ROWS)
    gone = [column for column in COLUMNS if column not in shown]
    words_of_text = " ".join(text.split())
    assert [column.name for column in gone if column.name not in words_of_text] == []  # they are named below
    ranks = [column.rank for column in shown if column.rank]
    assert not gone or not ranks or min(column.rank for column in gone) >= max(ranks)
    joined = re.sub(r"\s+", "", text)
    assert all(name in joined or width == 40 for name in NAMES)


def test_more_width_shows_more() -> None:
    counts = [
        sum(column.name in printed(width).splitlines()[0] for column in COLUMNS) for width in (80, 100, 140, PIPED)
    ]
    assert counts == sorted(counts)
    assert counts[-1] == len(COLUMNS)
    assert counts[0] >= 2


def test_empty_columns_are_left_out_without_a_word() -> None:
    text = printed(80, [words("a"), Column("b", 1)], [("x", ""), ("y", "")])
    assert "b" not in text


def test_cells_are_no_markup_and_rows_may_stand_out() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard")
    print_table(console, [words("[red]name[/]")], [Row(("[bold]x[/]",), bold=True)])
    assert "[bold]x[/]" in out.getvalue()
    assert "\x1b[1m" in out.getvalue()
