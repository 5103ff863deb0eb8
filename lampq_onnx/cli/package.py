"""`package`: serving forms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("package")(package)


def package(
    source: Annotated[Path, typer.Argument(help="A folder that quantize wrote, or a quantized ONNX file.")],
    form: Annotated[str, typer.Option("--format", help="ort, triton or openvino-ir.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new folder; default: named after the format.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a quantized model for a server: onnxruntime's own format, a Triton repository, or OpenVINO IR."""
    from lampq_onnx.serving import package as write

    packaged = write(source, form, output, overwrite=overwrite)
    for name, size in packaged.files.items():
        typer.echo(f"{size:>12}  {name}")
    typer.echo(f"wrote {len(packaged.files)} file(s) to {packaged.folder}")
