"""`explain`: the kernels that onnxruntime runs a file on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import number_of
from lampq_onnx.config.options import MOST_BATCH, MOST_THREADS, MOST_TURNS


def explain(
    model: Annotated[Path, typer.Argument(help="An ONNX file, quantized or float.")],
    threads: Annotated[str, typer.Option(metavar="INTEGER", help="Threads of onnxruntime.")] = "1",
    batch: Annotated[str, typer.Option(metavar="INTEGER", help="Images in a batch.")] = "1",
    runs: Annotated[
        str, typer.Option(metavar="INTEGER", help="How often times are measured; the median is shown.")
    ] = "10",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the kernel that onnxruntime runs for each layer, its time, and why it is not an integer kernel."""
    from lampq_onnx.workflow.inspecting import explain as profile

    images, cores, turns = (
        number_of(name, text, int, ge=1, le=most)
        for name, text, most in (
            ("--batch", batch, MOST_BATCH),
            ("--threads", threads, MOST_THREADS),
            ("--runs", runs, MOST_TURNS),
        )
    )
    found = profile(model, threads=cores, batch=images, runs=turns)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"not_done": [entry.model_dump() for entry in found.not_done]}, indent=2))
        return
    from lampq_onnx.cli.kernel_tables import print_explanation

    print_explanation(found, model)
