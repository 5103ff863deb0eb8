"""`package`: formats for servers and devices."""

from __future__ import annotations

import json
from dataclasses import asdict
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a quantized model for a server, a device or the web, in a format of `lampq-onnx list formats`."""
    from lampq_onnx.serving.formats import package as write

    packaged = write(source, form, output, overwrite=overwrite)
    if as_json:
        values = asdict(packaged) | {"folder": str(packaged.folder), "source": str(packaged.source)}
        typer.echo(json.dumps(values | {"bytes": packaged.bytes}, indent=2))
        return
    for name, size in packaged.files.items():
        typer.echo(f"{size:>12,}  {name}")
    before, after = packaged.source_bytes / 1e6, packaged.bytes / 1e6
    typer.echo(f"wrote {len(packaged.files)} file(s) to {packaged.folder}")
    typer.echo(f"size: {packaged.source.name} {before:.3f} MB, package {after:.3f} MB ({after / before:.2f}x)")
    typer.echo(f"runs in: {packaged.runs}")
    for sentence in packaged.failed:
        typer.secho(f"FAIL: the report of {source} says: {sentence}", fg="red")
    if packaged.target:
        typer.echo(f"made for: {packaged.target}; check it there with `lampq-onnx validate`")
