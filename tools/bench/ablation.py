"""Compare allocation methods on one base quantizer and one form of graph, as Table 6 of the LampQ paper does.

    python tools/bench/ablation.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --seeds 0,1,2

All rows have the same equalized model, ranges and base quantizer (GPTQ, unless --effort or --rounding say otherwise).
Only the widths of the weights differ. The figures come from the simulation in PyTorch. It computes the same function as
the file, except for values that round differently because float sums have another order; `lampq-onnx quantize` checks
this for every file that it writes. Bytes are those of the file that belongs to a row.

A seed chooses the calibration images and everything else that is random, but not the validation images. Each seed is
analyzed once for all rows and widths (twice if rows need measured and directional costs), and equalized for the lowest
width.

A row is an allocation, or an allocation with +update, followed by the iterative update. With group: in front, groups
of output channels get widths instead of layers, at the same average bits. With group-bytes: in front, the groups get as
many bits as fit in a file of as many bytes as that of the layers. I1 means one width for each layer, I2 the type-aware
Fisher metric, I3 the update. The result of each run is printed to stderr when it ends. An interrupted program prints
the table so far, and continues if it is started again with the same --results FILE. Processes with different seeds may
share that file.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from lampq_onnx import allocation
from lampq_onnx.allocation.options import Granularity
from lampq_onnx.artifacts import Sensitivities
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.config.options import AnalysisOptions, RoundingOptions, UpdateOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.data import CroppedImages, choose
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.tasks.meters import meter_for, open_validation
from lampq_onnx.frontend.models.digits import digits_source
from lampq_onnx.frontend.models.loading import DIGITS
from lampq_onnx.frontend.opening import calibration_images, load_model
from lampq_onnx.frontend.rounding.plan import RoundedPlan, plan_inputs
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import BATCH, SlicedImages, logits_of
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.running.progress import NO_PROGRESS
from lampq_onnx.runtime.environment import available_cores, describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.bench.ablation_rows import CANDIDATES, COSTS, KNOWN, SHOWN, Measured, name_of, prefix_of, save_float
from tools.bench.ablation_table import COLUMNS, Outcome, Results, table


@dataclass(frozen=True)
class Settings:
    model: ModelOptions
    images: ImageOptions
    widths: tuple[float, ...]
    rows: tuple[str, ...]
    activation_bits: int | Literal["same"]
    rounding: RoundingOptions
    update: UpdateOptions
    equalize: bool
    validation_size: int | None

    def common(self) -> str:
        """Settings for the runs of all rows, widths and seeds; equalization is for the lowest width."""
        shared = replace(self, rows=(), widths=(min(self.widths),), images=self.images.model_copy(update={"seed": 0}))
        return hashlib.sha256(repr(shared).encode()).hexdigest()[:16]


def analyzed(frontend: Frontend, crops: SlicedImages, settings: Settings, seed: int) -> dict[str, Sensitivities]:
    """Equalize, and analyze for each of the wanted rows of COSTS."""
    granularity: Granularity = "group" if any(map(prefix_of, settings.rows)) else "layer"
    asked = AnalysisOptions(
        activation_bits=settings.activation_bits, weight_bits=min(settings.widths), granularity=granularity
    )
    if settings.equalize:
        frontend.equalize(crops, asked, seed=seed)
    if settings.rounding.method == "gptq":
        frontend.use_gptq(crops, widths=CANDIDATES)
    efforts = COSTS if settings.rounding.effort == "fast" else {**COSTS, "kl": settings.rounding.effort}
    wanted = {name_of(row) for row in settings.rows} & set(COSTS) or {"directional"}
    return {
        name: frontend.analyze(crops, asked.model_copy(update={"effort": effort}), seed=seed)
        for name, effort in efforts.items()
        if name in wanted
    }


def evaluate(frontend: Frontend, rounded: RoundedPlan, validation: CroppedImages, reference: torch.Tensor) -> Accuracy:
    """Compare the simulated quantized model with the float outputs."""
    loaded = frontend.loaded
    meter = meter_for(loaded.task, validation.source, loaded.preprocessing)
    with live_model(loaded.module, frontend.exported.layers) as live:
        for name, weight in rounded.weights.items():
            live.set_weight(name, weight)
        for name, quantizer in plan_inputs(rounded.plan).items():
            live.set_input(name, quantizer)
        outputs = logits_of(loaded.module, validation).numpy()
    for batch in validation.batches(BATCH):
        own = slice(batch.start, batch.start + len(batch.images))
        meter.add(reference[own].numpy(), outputs[own], batch)
    return meter.result()


def run(settings: Settings, seeds: Sequence[int], into: Results) -> None:
    """Run all rows at all widths for all seeds, except those that ``into`` already has."""
    missing = {
        seed: [(bits, row) for bits in settings.widths for row in settings.rows if seed not in into[row, bits]]
        for seed in seeds
    }
    if not any(missing.values()):
        return
    images, loaded = settings.images, load_model(settings.model, settings.images)
    if images.validation is None and settings.model.name != DIGITS:
        raise LampqError("no validation images", hint="give labelled images with --validation")
    classes, folder = loaded.identity.num_classes, images.validation
    tested = open_validation(folder, loaded.task, classes) if folder else digits_source("test")
    size = settings.validation_size or len(tested)
    with CroppedImages(choose(tested, size, 0), loaded.preprocessing) as validation:
        reference = logits_of(loaded.module, validation)
        for seed in (seed for seed in seeds if missing[seed]):
            # Equalization changes the weights: every seed starts from the checkpoint.
            frontend = Frontend(load_model(settings.model, images))
            own, layers = images.model_copy(update={"seed": seed}), frontend.exported.layers
            source = calibration_images(frontend.loaded, layers, own, settings.rounding.effort, NO_PROGRESS)
            with CroppedImages(*source) as crops, tempfile.TemporaryDirectory(prefix="lampq-") as place:
                run_seed(settings, seed, missing[seed], frontend, crops, Path(place), (validation, reference), into)


def run_seed(
    settings: Settings,
    seed: int,
    missing: Sequence[tuple[float, str]],
    frontend: Frontend,
    crops: SlicedImages,
    place: Path,
    validation: tuple[CroppedImages, torch.Tensor],
    into: Results,
) -> None:
    """Run what is missing of one seed; ``validation`` are images, and the float model's outputs on them."""
    start = time.perf_counter()
    known = analyzed(frontend, crops, settings, seed)
    float_file = save_float(frontend, place / "float.onnx")
    measured = Measured(frontend, crops, known, float_file, settings.update, settings.activation_bits)
    typer.echo(f"seed {seed}: analyzed in {time.perf_counter() - start:.0f} s", err=True)
    for bits, row in missing:
        start = time.perf_counter()
        plan = measured.plan(row, bits)
        rounded = frontend.round(plan, crops, settings.rounding, settings.update, seed=seed)
        seconds = time.perf_counter() - start
        accuracy = evaluate(frontend, rounded, *validation)
        size = measured.bytes(rounded.plan, rounded.weights)
        outcome = Outcome(accuracy=accuracy, bits=plan.weight_average(), bytes=size, seconds=seconds)
        into.add(row, bits, seed, outcome)
        said = ", ".join(f"{name} {read(accuracy):.{digits}f}" for name, digits, read in COLUMNS)
        typer.echo(f"seed {seed}, {bits:g} bits, {row}: {said}, {size} bytes, {seconds:.1f} s", err=True)


@with_options("model", "images", "rounding", "--equalize", "--rounds", without=("--seed",), shown={"--effort": "fast"})
def main(
    *,
    model: Annotated[str, typer.Argument(help="A timm model name, or digits.")] = DIGITS,
    validation_size: Annotated[
        int | None, typer.Option(min=1, help="Number of validation images; default: all.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds for choosing calibration images and everything else.")] = "0,1,2",
    bits: Annotated[str, typer.Option(help="Average weight bits.")] = "3,4",
    activation_bits: Annotated[str, typer.Option(help="Width of all inputs, or same: that of the weights.")] = "8",
    methods: Annotated[str, typer.Option(help=f"Rows: any of {', '.join(KNOWN)}.")] = ",".join(SHOWN),
    results: Annotated[Path | None, typer.Option(help="File for finished runs, which are not repeated.")] = None,
    values: Values,
) -> None:
    """Compare allocation methods on one model."""
    recipe = Recipe.build(
        {"analysis": {"effort": "fast"}, "allocation": {"activation_bits": activation_bits}},
        values,
        {"model": {"name": model}},
    )
    inputs = recipe.allocation.activation_bits
    if inputs == "mixed":
        raise UsageError("--activation-bits mixed is not offered: only the widths of weights are compared here")
    rows = tuple(dict.fromkeys(methods.split(",")))
    if not set(rows) <= set(KNOWN):
        raise UsageError(f"--methods must be of {', '.join(KNOWN)}, not {methods!r}")
    try:
        widths = tuple(float(part) for part in bits.split(","))
    except ValueError:
        raise UsageError(f"--bits takes numbers with commas between, not {bits!r}") from None
    settings = Settings(
        model=recipe.model,
        images=recipe.images,
        widths=widths,
        rows=rows,
        activation_bits=inputs,
        rounding=recipe.rounding,
        update=recipe.update,
        equalize=recipe.analysis.equalize,
        validation_size=validation_size,
    )
    for width in settings.widths:
        asked = allocation.AllocationOptions.of(bits=width, activation_bits=inputs)
        asked.require_widths()
        asked.require_average_bits()
    if not all(part.isdecimal() for part in seeds.split(",")):
        raise UsageError(f"--seeds takes whole numbers from 0 up with commas between, not {seeds!r}")
    numbers = [int(part) for part in seeds.split(",")]
    machine, found = describe_environment("none"), Results(results, settings.common(), numbers)
    processor = (
        torch.cuda.get_device_name(recipe.model.device) if recipe.model.device.startswith("cuda") else machine.cpu
    )
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("torch", "timm", "numpy"))
    rounding, images = recipe.rounding, recipe.images
    print(f"{model}, inputs of {activation_bits} bits, {rounding.method} ({rounding.effort}), seeds {seeds}", end=", ")
    size = images.calibration_size or "as many images as the effort takes"
    print(f"calibration {images.calibration or 'embedded'}, {size}")
    print(f"{processor} ({', '.join(machine.cpu_flags)}), {time.strftime('%Y-%m-%d %H:%M')}, {versions}\n", flush=True)
    try:
        with torch_threads(available_cores()):
            run(settings, numbers, found)
    finally:
        if any(found.values()):
            print("\n".join(table(found, settings.rows, settings.widths)))


if __name__ == "__main__":
    run_tool(main)
