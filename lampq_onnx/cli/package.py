"""`package`: formats for servers and devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.names import completion_of, formats
from lampq_onnx.cli.parameters import Overwrite


def package(
    source: Annotated[Path, typer.Argument(help="A folder that quantize wrote, or a quantized ONNX file.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="The format: {formats}. `lampq-onnx list formats` explains them.",
            autocompletion=completion_of(formats),
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write. Default: named after the format, beside the model.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a quantized model for a server or device: onnxruntime's own format, a Triton repository or OpenVINO IR."""
    from lampq_onnx.serving.formats import package as write

    packaged = write(source, form, output, overwrite=overwrite)
    for name, size in packaged.files.items():
        typer.echo(f"{size:>12}  {name}")
    typer.echo(f"wrote {len(packaged.files)} file(s) to {packaged.folder}")
