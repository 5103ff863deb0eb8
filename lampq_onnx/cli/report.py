"""`report`: the page of a folder that `quantize` or `validate` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    source: Annotated[Path, typer.Argument(help="Folder with report.json, or such a file.", metavar="DIR")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; default: report.html beside it.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw report.html from report.json: one file that opens offline.

    The page beside report.json is its own, and drawn again.
    """
    from lampq_onnx.workflow.reporting import report as draw

    typer.echo(f"wrote {draw(source, output, overwrite=overwrite)}")
