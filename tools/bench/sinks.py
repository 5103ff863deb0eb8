"""Measure what 8-bit weights and inputs lose on a model with massive activations, in onnxruntime's own tool and here.

    python tools/bench/stand_ins.py deit_tiny_patch16_224 deit_tiny.safetensors sinks.safetensors --kind harder ...
    python -m tools.bench.sinks deit_tiny_patch16_224 --checkpoint sinks.safetensors --calibration ... --validation ...

All files have one scale for each input tensor. Every row is a checked file in onnxruntime; "without equalization"
leaves out the scaling of input channels, which is what takes sinks away. Layers in float are those whose inputs have 16
bits or are float: they run on the float kernel.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import lampq_onnx
from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.data import batches_of, choose, open_source
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.measure import measure_accuracy, measure_latency
from lampq_onnx.evaluation.tasks.meters import meter_for, open_validation
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.runtime import describe_environment, open_runner
from tools.bench.peer_tools import ort_static

BATCH = 16
FORMS: dict[str, dict[str, object]] = {
    ", without equalization": {"equalize": False},
    "": {},
    ", without 16-bit inputs": {"wide_price": math.inf},
}
"""What is left out -> options; the first form keeps the weights as they are, and its float file is the peer's."""
PEER = "onnxruntime quantize_static, MinMax"


def row(name: str, accuracy: Accuracy, speedup: tuple[float, float, float], floats: str) -> str:
    """One line of the table; ``speedup`` are median and quartiles."""
    sqnr = "exact" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f}"
    middle, low, high = speedup
    cells = (
        name,
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        f"{100 * accuracy.agreement:.1f}",
        sqnr,
        f"{accuracy.kl:.4f}",
        f"{middle:.2f} ({low:.2f}-{high:.2f})",
        floats,
    )
    return f"| {' | '.join(cells)} |"


def float_layers(report: Report) -> str:
    """How many layers of a file read float inputs or have float weights, or inputs of 16 bits."""
    return str(sum(layer.activation_bits > 8 for layer in report.layers))


@with_options("model", "images", "--latency-runs")
def main(
    *,
    model: Annotated[str, typer.Argument(help="A timm model name.")],
    efforts: Annotated[str, typer.Option(help="Efforts: any of fast, balanced, best.")] = "fast",
    values: Values,
) -> None:
    """Print the table of methods."""
    recipe = Recipe.build({}, values, {"model": {"name": model}})
    images = recipe.images
    if images.calibration is None or images.validation is None:
        raise UsageError("sinks need real images", hint="give --calibration and --validation")
    shared = {key: value for own in values.values() for key, value in own.items()}
    loaded = load_model(recipe.model, images)
    tested = open_validation(images.validation, loaded.task, loaded.identity.num_classes)
    environment = describe_environment("")
    print(f"{environment.cpu}, {time.strftime('%Y-%m-%d')}, {model}, n = {len(tested)}, seed {images.seed}\n")
    print("| file, 8/8 | drop | agreement % | SQNR dB | KL | as fast as float | layers in float |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="lampq-") as temporary:
        folder = Path(temporary)
        for effort in efforts.split(","):
            for words, own in FORMS.items():
                out = folder / f"{effort}{words}"
                report = lampq_onnx.quantize(
                    model, out, bits=8, activation_bits=8, effort=effort, resume=False, **{**shared, **own}
                )
                speed = (report.latency.speedup, *report.latency.speedup_quartiles)
                print(row(f"this tool, {effort}{words}", report.accuracy, speed, float_layers(report)), flush=True)
        source, peer = folder / f"{efforts.split(',')[0]}{next(iter(FORMS))}" / FLOAT_FILE, folder / "peer.onnx"
        calibration = choose(open_source(images.calibration, num_classes=None, need_labels=False), 64, images.seed)
        pixels = np.concatenate([batch.images for batch in batches_of(calibration, loaded.preprocessing, BATCH)])
        ort_static(source, peer, pixels)
        figures = measure_accuracy(
            open_runner(source, threads=1), open_runner(peer, threads=1), None, None,
            batches_of(tested, loaded.preprocessing, BATCH), total=len(tested),
            meter=meter_for(loaded.task, tested, loaded.preprocessing),
        )  # fmt: skip
        latency = measure_latency(source, peer, pixels[:1], threads=1, runs=recipe.output.latency_runs)
        speed = (latency.speedup, *latency.speedup_quartiles)
        print(row(PEER, figures.accuracy, speed, ""), flush=True)


if __name__ == "__main__":
    run_tool(main)
