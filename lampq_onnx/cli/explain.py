"""`explain`: which kernels a file runs on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    model: Annotated[Path, typer.Argument(help="An ONNX file, quantized or float.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the session.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Profiled runs; times are medians.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say which kernel onnxruntime chose for each layer, what it costs, and why it is not an integer kernel."""
    from lampq_onnx.runtime.explain import explain_file
    from lampq_onnx.runtime.sessions import example_images

    found = explain_file(model, example_images(model, batch), threads=threads, runs=runs)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"not_done": [entry.model_dump() for entry in found.not_done]}, indent=2))
        return
    from lampq_onnx.cli.kernel_tables import print_explanation

    print_explanation(found, model)
