"""Measure what 8-bit weights and inputs lose on a model with massive activations, in onnxruntime's own tool and here.

    python tools/bench/stand_ins.py deit_tiny_patch16_224 deit_tiny.safetensors sinks.safetensors --kind harder ...
    python -m tools.bench.sinks deit_tiny_patch16_224 --checkpoint sinks.safetensors --calibration ... --validation ...

All files have one scale for each input tensor. --more names other checkpoints of the same model, such as those of other
seeds: means over all follow then. Every row is a checked file in onnxruntime; "without equalization" leaves out the
scaling of input channels, which is what takes sinks away. Layers in float are those whose inputs have 16 bits or are
float: they run on the float kernel.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from lampq_onnx.data import ImageSource, batches_of, choose, open_source
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.measure import measure_accuracy, measure_latency
from lampq_onnx.evaluation.tasks.meters import meter_for, open_validation
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.shared.loaded import LoadedModel
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


@dataclass(frozen=True)
class Measured:
    """One file: its accuracy, median and quartiles of its speed, and how many of its layers run in float."""

    accuracy: Accuracy
    speedup: tuple[float, float, float]
    floats: int | None


def row(name: str, measured: Measured) -> str:
    """Format what was measured of a file as one line of the table."""
    accuracy, (middle, low, high) = measured.accuracy, measured.speedup
    sqnr = "exact" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f}"
    cells = (
        name,
        f"{100 * accuracy.float_.top1:.1f}",
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        f"{100 * accuracy.agreement:.1f}",
        sqnr,
        f"{accuracy.kl:.4f}",
        f"{middle:.2f} ({low:.2f}-{high:.2f})",
        "" if measured.floats is None else str(measured.floats),
    )
    return f"| {' | '.join(cells)} |"


def mean_row(name: str, measured: Sequence[Measured]) -> str:
    """One line for several checkpoints: means, the standard error of the mean drop, and all speeds."""
    drops = [each.accuracy.drop_points for each in measured]
    decibels = [each.accuracy.logit_sqnr_db for each in measured]
    known = [value for value in decibels if value is not None]
    speeds = [each.speedup[0] for each in measured]
    floats = [each.floats for each in measured if each.floats is not None]
    cells = (
        name,
        f"{100 * np.mean([each.accuracy.float_.top1 for each in measured]):.1f}",
        f"{np.mean(drops):.2f} ± {np.std(drops, ddof=1) / len(drops) ** 0.5:.2f}",
        f"{100 * np.mean([each.accuracy.agreement for each in measured]):.1f}",
        f"{np.mean(known):.1f}" if len(known) == len(decibels) else "",
        f"{np.mean([each.accuracy.kl for each in measured]):.4f}",
        f"{min(speeds):.2f}-{max(speeds):.2f}",
        f"{min(floats)}-{max(floats)}" if floats else "",
    )
    return f"| {' | '.join(cells)} |"


def float_layers(report: Report) -> int:
    """How many layers of a file read float inputs or have float weights, or inputs of 16 bits."""
    return sum(layer.activation_bits > 8 for layer in report.layers)


@with_options("model", "images", "--latency-runs", "--threads")
def main(
    *,
    model: Annotated[str, typer.Argument(help="A timm model name.")],
    efforts: Annotated[str, typer.Option(help="Efforts: any of fast, balanced, best.")] = "fast",
    more: Annotated[list[Path] | None, typer.Option(help="Another checkpoint of this model; repeatable.")] = None,
    forms: Annotated[str, typer.Option(help="Which files: all, or narrow (of this tool, no 16-bit inputs).")] = "all",
    values: Values,
) -> None:
    """Print the table of methods."""
    recipe = Recipe.build({}, values, {"model": {"name": model}})
    images = recipe.images
    if images.calibration is None or images.validation is None:
        raise UsageError("sinks need real images", hint="give --calibration and --validation")
    if forms not in ("all", "narrow"):
        raise UsageError(f"--forms must be all or narrow, not {forms!r}")
    chosen = FORMS if forms == "all" else dict(list(FORMS.items())[-1:])
    shared = {key: value for own in values.values() for key, value in own.items()}
    loaded = load_model(recipe.model, images)
    tested = open_validation(images.validation, loaded.task, loaded.identity.num_classes)
    environment = describe_environment("")
    print(f"{environment.cpu}, {time.strftime('%Y-%m-%d')}, {model}, n = {len(tested)}, seed {images.seed}\n")
    print("| file, 8/8 | float top-1 % | drop | agreement % | SQNR dB | KL | as fast as float | layers in float |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    checkpoints = [recipe.model.checkpoint, *(more or [])]
    several: dict[str, list[Measured]] = {}
    for checkpoint in checkpoints:
        start = f"{checkpoint.stem}: " if len(checkpoints) > 1 and checkpoint is not None else ""
        own = {**shared, **({} if checkpoint is None else {"checkpoint": checkpoint})}
        with tempfile.TemporaryDirectory(prefix="lampq-") as temporary:
            folder = Path(temporary)
            for effort in efforts.split(","):
                for words, options in chosen.items():
                    out = folder / f"{effort}{words}"
                    report = lampq_onnx.quantize(
                        model, out, bits=8, activation_bits=8, effort=effort, resume=False, **{**own, **options}
                    )
                    speed = (report.latency.speedup, *report.latency.speedup_quartiles)
                    name, measured = f"{effort}{words}", Measured(report.accuracy, speed, float_layers(report))
                    several.setdefault(name, []).append(measured)
                    print(row(start + name, measured), flush=True)
            if forms == "all":
                plain = folder / f"{efforts.split(',')[0]}{next(iter(FORMS))}" / FLOAT_FILE
                measured = _peer(plain, folder / "peer.onnx", recipe, loaded, tested)
                several.setdefault(PEER, []).append(measured)
                print(row(start + PEER, measured), flush=True)
    if len(checkpoints) > 1:
        for name, found in several.items():
            print(mean_row(f"mean of {len(found)}: {name}", found))


def _peer(source: Path, peer: Path, recipe: Recipe, loaded: LoadedModel, tested: ImageSource) -> Measured:
    """The file of onnxruntime's own tool, made of the float file ``source``."""
    images = recipe.images
    calibration = choose(open_source(images.calibration, num_classes=None, need_labels=False), 64, images.seed)
    pixels = np.concatenate([batch.images for batch in batches_of(calibration, loaded.preprocessing, BATCH)])
    ort_static(source, peer, pixels)
    figures = measure_accuracy(
        open_runner(source, threads=1), open_runner(peer, threads=1), None, None,
        batches_of(tested, loaded.preprocessing, BATCH), total=len(tested),
        meter=meter_for(loaded.task, tested, loaded.preprocessing),
    )  # fmt: skip
    latency = measure_latency(source, peer, pixels[:1], threads=1, runs=recipe.output.latency_runs)
    return Measured(figures.accuracy, (latency.speedup, *latency.speedup_quartiles), None)


if __name__ == "__main__":
    run_tool(main)
