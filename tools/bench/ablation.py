"""Compare allocation methods on one base quantizer and one form of graph, as Table 6 of the LampQ paper does.

    python tools/bench/ablation.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --seeds 0,1,2

All rows have the same equalized model, ranges and base quantizer (GPTQ, unless --effort or --rounding say otherwise).
Only the widths of the weights differ. The figures come from the simulation in PyTorch. It computes the same function as
the file, except for values that round differently because float sums have another order; `lampq-onnx quantize` checks
this for every file that it writes.

A seed chooses the calibration images and everything else that is random, but not the validation images. Each seed is
analyzed once for all rows and widths (twice if rows need measured and directional costs), and equalized for the lowest
width.

A row is an allocation, or an allocation with +update, followed by the iterative update. With group: in front, groups
of output channels get widths instead of layers. I1 means one width for each
layer, I2 the type-aware Fisher metric, I3 the update. The result of each run is printed to stderr when it ends. An
interrupted program prints the table so far, and continues if it is started again with the same --results FILE.
Processes with different seeds may share that file.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from pydantic import BaseModel

from lampq_onnx import allocation
from lampq_onnx.allocation.options import Granularity
from lampq_onnx.allocation.rungs import ladders_of
from lampq_onnx.artifacts import BitPlan, ChannelWidths, Sensitivities
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.options import (
    AnalysisOptions,
    EffortName,
    ImageOptions,
    ModelOptions,
    RoundingOptions,
    UpdateOptions,
)
from lampq_onnx.config.recipe import Recipe, Values
from lampq_onnx.data import CroppedImages, choose, open_source
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.digits import digits_source
from lampq_onnx.frontend.models.loading import DIGITS
from lampq_onnx.frontend.opening import calibration_images, load_model
from lampq_onnx.frontend.rounding.plan import RoundedPlan, plan_inputs
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import SlicedImages, logits_of
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.measures.evidence import error_of_mean
from lampq_onnx.running.progress import NO_PROGRESS
from lampq_onnx.runtime.environment import available_cores, describe_environment

CANDIDATES = allocation.DEFAULTS.candidates
SIGNIFICANT = 2.0  # standard errors that a mean difference has to exceed
UPDATE = "+update"
GROUP = "group:"
UNIFORM, MODULES, DEFAULT = "uniform", "vt-ptq", "kl+update"

TITLES = {  # of the rows that are printed unless others are asked for
    UNIFORM: "uniform bits",
    MODULES: "module-wise nuclear norm (VT-PTQ)",
    "nuclear-norm": "layer-wise nuclear norm",
    "fisher": "Fisher without alpha",
    "lampq": "alpha x Fisher (I1+I2)",
    "uniform+update": "uniform bits, update (I1+I3)",
    "lampq+update": "alpha x Fisher, update (I1+I2+I3: LampQ)",
    "omega-error": "alpha x Fisher x rounding error",
    "directional": "directional Fisher",
    "kl": "measured KL",
    DEFAULT: "measured KL, update (the default)",
    GROUP + "kl": "measured KL",
    GROUP + DEFAULT: "measured KL, update",
}
METRIC_OF = {MODULES: "nuclear-norm", "directional": "kl"}  # others have the row's name
COSTS: dict[str, EffortName] = {"kl": "balanced", "directional": "fast"}  # rows that read costs: who measures them
KNOWN = tuple(
    row
    for name in TITLES
    if "+" not in name
    for row in (name, name + UPDATE, GROUP + name, GROUP + name + UPDATE)
    if row not in (MODULES + UPDATE, GROUP + MODULES, GROUP + MODULES + UPDATE) and not row.startswith(GROUP * 2)
)

COLUMNS: tuple[tuple[str, int, Callable[[Accuracy], float]], ...] = (
    ("drop", 2, lambda a: a.drop_points),
    ("agreement %", 1, lambda a: 100 * a.agreement),
    ("SQNR dB", 1, lambda a: np.inf if a.logit_sqnr_db is None else a.logit_sqnr_db),
    ("KL", 4, lambda a: a.kl),
)


class Outcome(BaseModel, frozen=True):
    accuracy: Accuracy
    bits: float | None  # the plan's average
    seconds: float  # of allocation, update and rounding


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


class SavedRun(BaseModel, frozen=True):
    """The run as one line of the results file."""

    settings: str
    row: str
    width: float
    seed: int
    outcome: Outcome


class Results(defaultdict[tuple[str, float], dict[int, Outcome]]):
    """Outcomes by row and width, then by seed; also stored in a file of JSON lines, if one is given."""

    def __init__(self, file: Path | None, settings: str, seeds: Sequence[int]) -> None:
        super().__init__(dict)
        self._file, self._settings = file, settings
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        for run in map(SavedRun.model_validate_json, lines):
            if run.settings == settings and run.seed in seeds:
                self[run.row, run.width][run.seed] = run.outcome

    def add(self, row: str, width: float, seed: int, outcome: Outcome) -> None:
        self[row, width][seed] = outcome
        if self._file is not None:
            run = SavedRun(settings=self._settings, row=row, width=width, seed=seed, outcome=outcome)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(run.model_dump_json(by_alias=True) + "\n")


def module_wise(sensitivities: Sensitivities, bits: float) -> dict[str, int]:
    """Widths of least cost, the same within a module: layers whose names are equal except for the last part."""
    layers = allocation.budgeted_layers(sensitivities)
    modules = [layer.name.rpartition(".")[0] for layer in layers]
    names = tuple(dict.fromkeys(modules))
    members = [names.index(module) for module in modules]
    costs, sizes = np.zeros((len(names), len(CANDIDATES))), np.zeros(len(names), dtype=np.int64)
    np.add.at(costs, members, allocation.METRICS["nuclear-norm"](sensitivities, CANDIDATES, 4.0))
    np.add.at(sizes, members, [layer.parameters for layer in layers])
    found = allocation.solve(allocation.Problem(names, sizes, CANDIDATES, costs, bits)).bits
    return {layer.name: found[module] for layer, module in zip(layers, modules, strict=True)}


def analyzed(frontend: Frontend, crops: SlicedImages, settings: Settings, seed: int) -> dict[str, Sensitivities]:
    """Equalize, and analyze for each of the wanted rows of COSTS."""
    granularity: Granularity = "group" if any(row.startswith(GROUP) for row in settings.rows) else "layer"
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


def plan_for(
    row: str, bits: float, known: dict[str, Sensitivities], frontend: Frontend, crops: SlicedImages, settings: Settings
) -> BitPlan:
    """The width of every layer in this row."""
    name, inputs = name_of(row), settings.activation_bits
    granularity: Granularity = "group" if row.startswith(GROUP) else "layer"
    metric, sensitivities = METRIC_OF.get(name, name), known.get(name) or next(iter(known.values()))
    plan, _ = allocation.allocate(
        sensitivities,
        options := allocation.AllocationOptions(
            bits=bits, metric=metric, gamma=4.0, activation_bits=inputs, granularity=granularity
        ),
    )
    if row == MODULES:
        widths = module_wise(sensitivities, bits)
    elif row.endswith(UPDATE) and granularity == "group":
        return updated_mixes(plan, sensitivities, options, frontend, crops, settings.update)
    elif row.endswith(UPDATE):
        sizes = {layer.name: layer.parameters for layer in allocation.budgeted_layers(sensitivities)}
        update, coupled = settings.update, sensitivities if inputs == "same" else None
        widths = allocation.iterative_update(
            {name: plan.layers[name].weight_bits for name in sizes}, sizes,
            allocation.capacity_of(bits, sum(sizes.values())), CANDIDATES,
            frontend.evaluator(plan, crops, update, coupled=coupled),
            rounds=update.rounds, patience=update.patience, budget_rule=update.rule,
        ).bits  # fmt: skip
    else:
        return plan
    if inputs == "same":
        return plan.with_coupled_bits(widths, {layer.name: layer.activation_ranges for layer in sensitivities.layers})
    return plan.with_weight_bits(widths)


def name_of(row: str) -> str:
    """The allocation of a row."""
    return row.removeprefix(GROUP).removesuffix(UPDATE)


def updated_mixes(
    plan: BitPlan,
    sensitivities: Sensitivities,
    options: allocation.AllocationOptions,
    frontend: Frontend,
    crops: SlicedImages,
    update: UpdateOptions,
) -> BitPlan:
    """The plan after the update of layers whose output channels differ in width."""
    sizes = {layer.name: layer.parameters for layer in allocation.budgeted_layers(sensitivities)}
    ladders, start = ladders_of(sensitivities, plan, sizes, CANDIDATES, options)
    found = allocation.update_mixes(
        start, ladders, allocation.capacity_of(options.bits, sum(sizes.values())),
        frontend.evaluator(plan, crops, update), rounds=update.rounds, patience=update.patience,
    ).bits  # fmt: skip
    widths = {name: ladders[name][rung].widths for name, rung in found.items()}
    plan = plan.with_weight_bits({name: own for name, own in widths.items() if isinstance(own, int)})
    return plan.with_channel_widths({name: own for name, own in widths.items() if isinstance(own, ChannelWidths)})


def evaluate(frontend: Frontend, rounded: RoundedPlan, validation: CroppedImages, reference: torch.Tensor) -> Accuracy:
    """Compare the simulated quantized model with the float logits."""
    assert validation.labels is not None
    module, meter = frontend.loaded.module, AccuracyMeter()
    with live_model(module, frontend.exported.layers) as live:
        for name, weight in rounded.weights.items():
            live.set_weight(name, weight)
        for name, quantizer in plan_inputs(rounded.plan).items():
            live.set_input(name, quantizer)
        meter.add(reference.numpy(), logits_of(module, validation).numpy(), validation.labels)
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
    tested = open_source(folder, num_classes=classes, need_labels=True) if folder else digits_source("test")
    size = settings.validation_size or len(tested)
    with CroppedImages(choose(tested, size, 0), loaded.preprocessing) as validation:
        reference = logits_of(loaded.module, validation)
        for seed in (seed for seed in seeds if missing[seed]):
            start = time.perf_counter()
            # Equalization changes the weights: every seed starts from the checkpoint.
            frontend = Frontend(load_model(settings.model, images))
            own, layers = images.model_copy(update={"seed": seed}), frontend.exported.layers
            source = calibration_images(frontend.loaded, layers, own, settings.rounding.effort, NO_PROGRESS)
            with CroppedImages(*source) as crops:
                known = analyzed(frontend, crops, settings, seed)
                typer.echo(f"seed {seed}: analyzed in {time.perf_counter() - start:.0f} s", err=True)
                for bits, row in missing[seed]:
                    start = time.perf_counter()
                    plan = plan_for(row, bits, known, frontend, crops, settings)
                    rounded = frontend.round(plan, crops, settings.rounding, settings.update, seed=seed)
                    seconds = time.perf_counter() - start
                    accuracy = evaluate(frontend, rounded, validation, reference)
                    into.add(row, bits, seed, Outcome(accuracy=accuracy, bits=plan.weight_average(), seconds=seconds))
                    said = ", ".join(f"{name} {read(accuracy):.{digits}f}" for name, digits, read in COLUMNS)
                    typer.echo(f"seed {seed}, {bits:g} bits, {row}: {said}, {seconds:.1f} s", err=True)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and its standard error if there are several values."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{np.mean(values):.{digits}f} ± {error_of_mean(np.array(values)):.{digits}f}"


def saved(results: Results, row: str, bits: float) -> list[float]:
    """KL of uniform bits minus KL of the row, for every seed that has both."""
    uniform = results[UNIFORM, bits]
    return [uniform[seed].accuracy.kl - o.accuracy.kl for seed, o in results[row, bits].items() if seed in uniform]


def table(results: Results, settings: Settings) -> list[str]:
    """Markdown: rows, what the default saves, and notes; differences of KL to uniform bits are paired over seeds."""
    names = (*(name for name, *_ in COLUMNS), "KL below uniform", "average bits")
    heads = [f"{name}, {bits:g} bits" for bits in settings.widths for name in names]
    lines = [f"| allocation | granularity | {' | '.join(heads)} | seconds |", "|---" * (len(heads) + 3) + "|"]
    for row in settings.rows:
        cells, seconds = [], []
        for bits in settings.widths:
            own = list(results[row, bits].values())
            cells += [spread([read(o.accuracy) for o in own], digits) for _, digits, read in COLUMNS]
            cells += [spread(saved(results, row, bits), 4), spread([o.bits or np.nan for o in own], 2)]
            seconds += [o.seconds for o in own]
        granularity = "group" if row.startswith(GROUP) else "layer"
        lines.append(f"| {TITLES.get(row, row)} | {granularity} | {' | '.join(cells)} | {spread(seconds, 1)} |")
    if DEFAULT in settings.rows and UNIFORM in settings.rows:
        lines += ["", *(verdict(saved(results, DEFAULT, bits), bits) for bits in settings.widths)]
    pairs = [row for row in settings.rows if row.startswith(GROUP) and row.removeprefix(GROUP) in settings.rows]
    lines += ["", *(of_layers(results, row, bits) for row in pairs for bits in settings.widths)] if pairs else []
    accuracies = [outcome.accuracy for found in results.values() for outcome in found.values()]
    error = max(accuracy.standard_error_points for accuracy in accuracies)
    lines += ["", f"n = {accuracies[0].samples}, which leaves a drop a standard error of up to {error:.2f} points."]
    return [*lines, "± is the standard error over seeds; seconds are those of allocation, update and rounding."]


def of_layers(results: Results, row: str, bits: float) -> str:
    """The KL of groups as a part of that of whole layers, over the seeds that have both."""
    whole = results[row.removeprefix(GROUP), bits]
    ratios = [o.accuracy.kl / whole[seed].accuracy.kl for seed, o in results[row, bits].items() if seed in whole]
    better = sum(ratio < 1 for ratio in ratios)
    return (
        f"{bits:g} bits, {TITLES.get(row, row)}: KL of groups by that of layers {spread(ratios, 3)}, "
        f"lower in {better} of {len(ratios)} seeds"
    )


def verdict(differences: Sequence[float], bits: float) -> str:
    """Whether the default beats uniform bits by more than the seeds' spread."""
    count, said = len(differences), f"{bits:g} bits: the default's KL is below uniform's by {spread(differences, 4)}"
    if count < 2:
        return f"{said}; one seed shows no spread"
    beyond = "more" if np.mean(differences) > SIGNIFICANT * error_of_mean(np.array(differences)) else "not more"
    return f"{said}, {sum(d > 0 for d in differences)} of {count} seeds: {beyond} than {SIGNIFICANT:g} standard errors"


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
    methods: Annotated[str, typer.Option(help=f"Rows: any of {', '.join(KNOWN)}.")] = ",".join(TITLES),
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
            print("\n".join(table(found, settings)))


if __name__ == "__main__":
    run_tool(main)
