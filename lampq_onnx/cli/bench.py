"""`bench`: check and time a file on the device where it will run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite, number_of, with_options
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.limits import MOST_THREADS, MOST_TURNS
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import options_of


@with_options("--validation", "--mean", "--std", "--crop", "--seed")
def bench(
    *,
    model: Annotated[Path, typer.Argument(help="The quantized ONNX file, e.g. out/model.onnx.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="The float ONNX file. Default: float.onnx in the same folder.", show_default=False),
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option(
            help="Write a folder for another device instead. `python bench.py` in it prints the row there, with only "
            "onnxruntime and NumPy.",
            show_default=False,
        ),
    ] = None,
    bench_threads: Annotated[
        str, typer.Option("--latency-threads", metavar="INTEGER", help="Threads of onnxruntime.")
    ] = "1",
    runs: Annotated[
        str, typer.Option("--latency-runs", metavar="INTEGER", help="How often times are measured; 0: not at all.")
    ] = "30",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a row.")] = False,
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Check each layer of a file on this CPU and time the file: one row of a table.

    The row names the CPU, and says how many layers run on integer kernels and are exact there, how many answers are
    those of the float file, and how fast it is against float in turns.
    """
    from lampq_onnx.runtime.on_device import as_text
    from lampq_onnx.workflow.device import bench as run

    row = run(
        model,
        options_of(ImageOptions, values),
        reference=reference,
        kit=kit,
        threads=number_of("--latency-threads", bench_threads, int, ge=1, le=MOST_THREADS),
        runs=number_of("--latency-runs", runs, int, ge=0, le=MOST_TURNS),
        overwrite=overwrite,
    )
    if row is None:
        typer.echo(f"wrote a kit to {kit}: copy it to the device, and run python bench.py there")
    else:
        typer.echo(json.dumps(row, indent=2) if as_json else as_text(row))
