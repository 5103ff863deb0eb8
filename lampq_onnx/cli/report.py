"""`report`: the page of a result, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite


def report(
    source: Annotated[
        Path, typer.Argument(help="Folder that quantize wrote, or a report.json of validate.", metavar="FOLDER")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write. Default: report.html beside report.json.", show_default=False
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw report.html from report.json: one page that opens offline.

    The page beside report.json is replaced without asking: it belongs to it.
    """
    from lampq_onnx.workflow.reporting import report as draw

    typer.echo(f"wrote {draw(source, output, overwrite=overwrite)}")
