"""Tables that fit the terminal: where it is narrow, whole columns are left out, never digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.style import Style
from rich.table import Table

PIPED = 10_000
"""Characters of a line where there is no terminal: nothing is left out or broken."""


@dataclass(frozen=True)
class Column:
    """One column of a table on the terminal.

    Attributes:
        name: its heading.
        rank: columns of the highest rank are left out first; those of rank 0 always stay.
        number: written to the right, and never broken.
    """

    name: str
    rank: int = 0
    number: bool = True


def words(name: str, rank: int = 0) -> Column:
    """A column of words, which may take several lines where the terminal is narrow."""
    return Column(name, rank, number=False)


@dataclass(frozen=True)
class Row:
    """Cells of one row, and whether it stands out."""

    cells: tuple[str, ...]
    bold: bool = False


def console() -> Console:
    """A console on standard output; in pipes and logs no line is broken."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPED)


def print_table(out: Console, columns: Sequence[Column], rows: Iterable[Row | Sequence[str]], title: str = "") -> None:
    """Print a table in the width of the console.

    Columns without any text are left out. Where others have to be, a line below the table names them.

    Args:
        out: where to.
        columns: all columns, in their order.
        rows: cells for all columns, as they are (no markup).
        title: a line above the table.
    """
    lines = [row if isinstance(row, Row) else Row(tuple(row)) for row in rows]
    shown = [place for place, _ in enumerate(columns) if any(row.cells[place] for row in lines)]
    dropped: list[int] = []
    table = _table(columns, lines, shown)
    for place in sorted(shown, key=lambda place: (-columns[place].rank, -place)):
        if columns[place].rank == 0 or _width(out, table) <= out.width:
            break
        shown.remove(place)
        dropped.append(place)
        table = _table(columns, lines, shown)
    if title:
        out.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    out.print(table)
    if dropped:
        names = ", ".join(columns[place].name for place in sorted(dropped))
        out.print(f"  [dim]not shown at this width: {escape(names)}[/]")


def _table(columns: Sequence[Column], rows: Sequence[Row], shown: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for place in shown:
        column = columns[place]
        table.add_column(
            escape(column.name), justify="right" if column.number else "left", no_wrap=column.number, overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(row.cells[place]) for place in shown), style=Style(bold=True) if row.bold else None)
    return table


def _width(out: Console, table: Table) -> int:
    """Characters that the table takes if nothing is broken."""
    return Measurement.get(out, out.options.update(max_width=PIPED), table).maximum
