"""`explain`: the kernels that a runtime executes for a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import number_of
from lampq_onnx.config.limits import MOST_BATCH, MOST_THREADS, MOST_TURNS
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.values import options_of


def explain(
    model: Annotated[Path, typer.Argument(help="An ONNX file, quantized or float.")],
    threads: Annotated[str, typer.Option(metavar="INTEGER", help="Threads of the runtime.")] = "1",
    batch: Annotated[str, typer.Option(metavar="INTEGER", help="Images in a batch.")] = "1",
    runs: Annotated[
        str, typer.Option(metavar="INTEGER", help="How often times are measured; the median is shown.")
    ] = "10",
    runtime: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What runs the file: onnxruntime or openvino. auto: the runtime of the target it was made for.",
        ),
    ] = "auto",
    inference_precision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Arithmetic beside integer kernels: f32, bf16 or f16. auto: the runtime's own default.",
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the kernel that a runtime executes for each layer, its time, and why it is not an integer kernel."""
    from lampq_onnx.workflow.inspecting import explain as profile

    images, cores, turns = (
        number_of(name, text, int, ge=1, le=most)
        for name, text, most in (
            ("--batch", batch, MOST_BATCH),
            ("--threads", threads, MOST_THREADS),
            ("--runs", runs, MOST_TURNS),
        )
    )
    form = options_of(OutputOptions, {"output": {"runtime": runtime, "inference_precision": inference_precision}})
    found = profile(
        model,
        threads=cores,
        batch=images,
        runs=turns,
        runtime=form.runtime,
        inference_precision=form.inference_precision,
    )
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"not_done": [entry.model_dump() for entry in found.not_done]}, indent=2))
        return
    from lampq_onnx.cli.kernel_tables import print_explanation

    print_explanation(found, model)
