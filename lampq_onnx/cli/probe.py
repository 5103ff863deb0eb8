"""`probe`: the time that each layer takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite, number_of, with_options
from lampq_onnx.config.limits import MOST_TURNS
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import options_of

if TYPE_CHECKING:
    from lampq_onnx.artifacts.latency import LatencyTable


@with_options("--target", "--runtime", "--inference-precision", "--latency-threads", "--latency-batch")
def probe(
    *,
    float_model: Annotated[
        Path, typer.Argument(metavar="FLOAT_MODEL", help="The float ONNX file, e.g. out/float.onnx.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("latency.json"),
    rounds: Annotated[
        str, typer.Option(metavar="INTEGER", help="How often each layer is timed, at least 5; the median is kept.")
    ] = "40",
    again: Annotated[bool, typer.Option("--again", help="Measure again what an earlier run has measured.")] = False,
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Time the layers on this machine, for --max-latency of allocate and quantize.

    Each layer shape is timed in float and in each form that the target has for it. Shapes that were timed before with
    this version of the runtime on this CPU are taken from the cache.
    """
    from lampq_onnx.cli.voice import Voice
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.workflow.inspecting import FEWEST_ROUNDS
    from lampq_onnx.workflow.inspecting import probe as measure

    turns = number_of("--rounds", rounds, int, ge=FEWEST_ROUNDS, le=MOST_TURNS)
    require_new_files((output,), overwrite=overwrite)
    form = options_of(OutputOptions, values)
    with Voice().progress() as progress:
        table = measure(
            float_model,
            target=form.target,
            runtime=form.runtime,
            inference_precision=form.inference_precision,
            threads=form.latency_threads,
            batch=form.latency_batch,
            rounds=turns,
            reuse=not again,
            progress=progress,
        )
    table.save(output)
    _print(table, output)


def _print(table: LatencyTable, path: Path) -> None:
    from lampq_onnx.cli.columns import Column, console, print_table, words

    out = console()
    place = f"{table.runtime or 'onnxruntime'} on {table.cpu}, {table.threads} thread(s)"
    columns = [
        words("shape"), Column("layers", 1), Column("W bits"), Column("A bits"), Column("storage", 3), Column("ms"),
        Column("noise", 2), Column("of float"),
    ]  # fmt: skip
    count = {shape: sum(layer.shape == shape for layer in table.layers) for shape in {t.shape for t in table.times}}
    base = {time.shape: time.milliseconds for time in table.times if not time.storages}
    rows = [
        (
            time.shape if not time.storages else "", str(count[time.shape]) if not time.storages else "",
            _span(time.weight_bits), _span(time.activation_bits), ",".join(time.storages), f"{time.milliseconds:.4f}",
            f"{100 * time.noise:.1f} %", f"{time.milliseconds / base[time.shape]:.2f}",
        )
        for time in table.times
    ]  # fmt: skip
    print_table(out, columns, rows, f"{table.model} in {place}")
    # Layers of microseconds are shorter in a graph than alone, where a call of the session comes on top.
    rest = f"; {table.fixed_ms:.2f} ms beside the layers" if table.fixed_ms > 0 else ""
    out.print(
        f"whole file: float {table.float_ms:.2f} ms, all layers quantized {table.fastest_ms:.2f} ms, noise "
        f"{100 * table.noise:.1f} %{rest}"
    )
    out.print(f"wrote {path}", markup=False)


def _span(bits: tuple[int, ...]) -> str:
    if bits == (32,):
        return "float"
    return str(bits[0]) if len(bits) == 1 else f"{bits[0]}-{bits[-1]}"
