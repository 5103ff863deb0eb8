"""`compare`: two results side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite

FEW = 12
"""Layers with other widths that are printed; all of them with --verbose and on the page."""


def compare(
    first: Annotated[Path, typer.Argument(help="A folder that quantize wrote, or a report.json.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Another one.", metavar="B")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write this page, e.g. compare.html.", show_default=False),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every layer with other widths.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare two results: accuracy, size, speed, widths and changed answers."""
    from lampq_onnx.cli.columns import Column, console, print_table, words
    from lampq_onnx.workflow.comparing import compare as run

    found = run(first, second, output, overwrite=overwrite)
    if as_json:
        values = asdict(found)
        for answer in values["answers"]:
            del answer["thumbnail"]
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    out = console()
    one, two = found.names
    rows = [(row.name, row.first, row.second) for row in found.figures]
    print_table(out, [words("figure"), Column(one), Column(two)], rows)
    shown = found.widths if verbose else found.widths[:FEW]
    out.print()
    out.print(f"{len(found.widths)} of {found.layers} layers have other widths (weights/inputs)", markup=False)
    if shown:
        columns = [words("layer"), Column(one), Column(two), Column("bytes", 1)]
        lines = [(row.layer, row.first or "float", row.second or "float", f"{row.bytes:+,}") for row in shown]
        print_table(out, columns, lines)
    if len(shown) < len(found.widths):
        out.print(f"  and {len(found.widths) - len(shown)} more: -v", markup=False)
    listed = len(found.answers)
    out.print(f"different answers to {listed} listed image{'' if listed == 1 else 's'}", markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)
    out.print(found.verdict, markup=False)
    if output is not None:
        out.print(f"wrote {output}", markup=False)
