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
    from lampq_onnx.artifacts import Report, Sensitivities
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.disk.files import REPORT_FILE, SENSITIVITY_FILE
    from lampq_onnx.errors import UsageError
    from lampq_onnx.html import write_report

    path = source / REPORT_FILE if source.is_dir() else source
    if source.is_dir() and not path.is_file():
        raise UsageError(f"{source} has no {REPORT_FILE}", hint="name a folder that quantize wrote, or a .json file")
    require_new_files((output,), overwrite=overwrite)
    found = Report.load(path)
    beside = path.parent / SENSITIVITY_FILE
    sensitivities = Sensitivities.load(beside) if beside.is_file() else None
    target = output or path.with_suffix(".html")
    write_report(found, target, sensitivities)
    typer.echo(f"wrote {target}")
