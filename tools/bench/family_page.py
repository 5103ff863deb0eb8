"""Print the rows of families as tables, and put them in a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench.family_models import FAMILIES
from tools.bench.family_rows import WIDTHS, Row, Width

COLUMNS = (
    "family", "model", "task", "layers", "share", "parity", "W8A8", "W4A8", "W8A8 speed", "stays in float", "s",
)  # fmt: skip

START, END = "<!-- rows of {} -->\n", "<!-- end of rows -->\n"
PARTS = ("timm", "transformers")


def heading() -> str:
    """The first two lines of a table."""
    return f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def line(row: Row) -> str:
    """Return the row of a family in Markdown."""
    arguments = ", ".join(f"{key}={value}" for key, value in row.arguments.items())
    model = f"{row.model} ({arguments})" if arguments else row.model
    if row.status == "done":
        cells = (
            row.task,
            ", ".join(f"{count} {kind}" for kind, count in row.layers.items()),
            f"{100 * row.share:.0f} %",
            f"{row.parity:.0e}",
            *(fidelity(row.widths[bits]) for bits in WIDTHS),
            "{:.2f} [{:.2f}, {:.2f}]".format(*row.widths[WIDTHS[0]].speedup),
            "; ".join(f"{len(names)}: {reason}" for reason, names in row.skipped.items()),
        )
    else:
        cells = (f"**{row.status}**: {'; '.join(row.reason.splitlines())}", "", "", "", "", "", "", "")
    return f"| {' | '.join((row.family, model, *cells, f'{row.cpu_seconds:.0f}'))} |"


def fidelity(width: Width) -> str:
    """Largest layer error / excess of onnxruntime / of the simulation."""
    return f"{width.layer_error:.0e} / {100 * width.excess:+.1f} % / {100 * width.simulation_excess:+.1f} %"


def total(rows: Sequence[Row]) -> str:
    """Say how long these rows take, on one core and on two."""
    minutes = sum(row.cpu_seconds for row in rows) / 60
    return f"{len(rows)} rows, {minutes:.0f} minutes of processor time: {minutes / 2:.0f} minutes on two cores."


def section(rows: Sequence[Row]) -> str:
    """Conditions and table of some rows; conditions that not all rows share name their rows."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.where, []).append(row.family)
    said = [f"{where}." if len(places) == 1 else f"{', '.join(own)}: {where}." for where, own in places.items()]
    return "\n".join([*said, "", heading(), *map(line, rows), ""])


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Replace the tables in a page.

    Raises:
        ValueError: the page has no place for a table, or rows are missing.
    """
    made = {row.family: row for row in rows}
    missing = [family.name for family in FAMILIES if family.name not in made]
    if missing:
        raise ValueError(f"the page needs all rows; missing: {', '.join(missing)}")
    text = page.read_text(encoding="utf-8")
    for part in PARTS:
        start = START.format(part)
        before, found, rest = text.partition(start)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            raise ValueError(f"{page} has no lines {start.strip()} and {END.strip()}")
        own = [made[family.name] for family in FAMILIES if bool(family.config) == (part == PARTS[1])]
        text = f"{before}{start}\n{section(own)}\n{total(own)}\n\n{END}{after}"
    page.write_text(text, encoding="utf-8")
