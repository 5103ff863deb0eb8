"""The Python API: the command line's stages as functions.

A module, a DataLoader and arrays go in where the command line takes names and folders; artifacts come out as values.

>>> import lampq_onnx
>>> plan = lampq_onnx.BitPlan.model_validate_json('{"layers": {"head": {"weight_bits": 8, "activation_bits": 8}}}')
>>> plan.with_weight_bits({"head": 4}).layers["head"].weight_bits
4
>>> lampq_onnx.quantize("digits", "out", bitz=3)
Traceback (most recent call last):
lampq_onnx.errors.UsageError: unknown option 'bitz'
did you mean bits?
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lampq_onnx.artifacts import BitPlan, LatencyTable, Report, Sensitivities
from lampq_onnx.config.options import EffortName, ImageOptions, OutputOptions
from lampq_onnx.config.recipe import Recipe, by_name, read_values, section
from lampq_onnx.errors import UsageError
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

if TYPE_CHECKING:
    from lampq_onnx.converter import Conversion
    from lampq_onnx.converter.inspect import QuantizedLayer
    from lampq_onnx.data import Preprocessing

Images: TypeAlias = str | Path | Iterable[Any]
"""A folder or .npz file, or batches: of a DataLoader, or arrays (n, c, h, w), each alone or with labels (n,).

Batches are float32 and normalized as the model takes them. They are gone through once.
"""


Module: TypeAlias = Callable[..., Any]
"""A torch.nn.Module that gives logits (n, classes) for images (n, c, h, w)."""


def quantize(
    model: str | Path | Module,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    validation: Images | None = None,
    bits: float | None = None,
    activation_bits: int | Literal["mixed", "same"] | None = None,
    effort: EffortName | None = None,
    recipe: Recipe | str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Any,
) -> Report:
    """Analyze, allocate, convert and check a model; the files go to the folder ``output``.

    Args:
        model: timm name, ``digits``, a float ONNX file, or a module; of a module a copy is taken.
        checkpoint, model_args: for a timm name: weights, and arguments of the constructor.
        preprocessing: for a module: what its images go through; None: what its timm configuration says.
        calibration: images, or ``synthetic`` or ``noise``: made from the model alone.
        validation: images with labels.
        bits: average weight bits of the budget.
        activation_bits: of every input; mixed: each its own, ``activation_budget`` on average; same: those of the
            unit's weights.
        effort: how long costs are measured and rounding is refined.
        recipe: what the arguments override: a recipe, or the path of one.
        resume: take the results of steps that an earlier run finished; a finished result of the same request is
            returned as it is.
        overwrite: replace the result of another request in ``output``; packages made from it are removed, and other
            files get the ending .stale.
        progress: told of stages.
        options: any other option of the command line, by its name there with underscores.

    Raises:
        UsageError: an unknown option, a value that it cannot have, or ``output`` holds another result.
        LampqError: the model, its images or the output folder cannot be used; nothing is written then.
    """
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.workflow.quantize import quantize as run

    named = {"checkpoint": checkpoint, "model_args": model_args, "bits": bits, "activation_bits": activation_bits}
    built, given = _asked(model, preprocessing, calibration, validation, recipe, {**named, "effort": effort, **options})
    cache = ArrayCache.of_user() if resume else None
    return run(built, Path(output), progress=progress, cache=cache, force=not resume, overwrite=overwrite, given=given)


def analyze(
    model: str | Path | Module,
    *,
    checkpoint: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    recipe: Recipe | str | Path | None = None,
    float_output: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Any,
) -> Sensitivities:
    """Measure the sensitivities of every unit.

    Args:
        float_output: where to write the float graph that they belong to.
        overwrite: replace it where it exists.
        options: see `quantize`, as the other arguments.

    Raises:
        UsageError, LampqError: see `quantize`.
    """
    from lampq_onnx.workflow.analyze import analyze as run

    named = {"checkpoint": checkpoint, "model_args": model_args}
    built, given = _asked(model, preprocessing, calibration, None, recipe, {**named, **options})
    return run(
        built,
        float_output=None if float_output is None else Path(float_output),
        overwrite=overwrite,
        progress=progress,
        given=given,
    )


def allocate(
    sensitivities: Sensitivities,
    *,
    bits: float | None = None,
    max_size: str | None = None,
    max_latency: str | None = None,
    max_bops: str | None = None,
    min_agreement: float | None = None,
    latency: LatencyTable | None = None,
    target: str = "auto",
    **options: Any,
) -> BitPlan:
    """Give out bits under one or several budgets.

    Args:
        bits: average weight bits; None: 4 where no other budget is given, else no limit.
        max_size, max_latency, max_bops, min_agreement: as on the command line, e.g. ``"4MB"`` and ``"20ms"``.
        latency: what `probe` measured; needed for ``max_latency``.
        target: where the file is meant to run; with ``latency`` its target.
        options: those of `lampq_onnx.allocation.AllocationOptions`, which has their defaults.

    Raises:
        UsageError: an option out of range, or what a budget needs is not given.
        LampqError: the budgets cannot be met; says which, and what could be.
    """
    from lampq_onnx.targets import target_for
    from lampq_onnx.workflow.planning import limits_of, make_plan, require_table_of

    budgets = {"max_size": max_size, "max_latency": max_latency, "max_bops": max_bops, "min_agreement": min_agreement}
    values = _of_sections({"bits": bits, **budgets, **options}, "allocation", "budgets")
    given, limits = section("allocation", values), section("budgets", values)
    place = target_for(target if latency is None or target != "auto" else latency.target, platform.machine(), ())
    if latency is not None:
        require_table_of(latency, place)
    return make_plan(
        sensitivities,
        given,
        limits_of(given, limits, bits_count=bits is not None or not limits.given),
        place,
        table=latency,
    )[0]


def probe(
    float_model: str | Path,
    *,
    target: str = "auto",
    threads: int = 1,
    batch: int = 1,
    progress: ProgressSink = NO_PROGRESS,
) -> LatencyTable:
    """Time the layers of a float file in every form of the target on this machine; see `runtime.probe.probe`."""
    from lampq_onnx.runtime.environment import target_here
    from lampq_onnx.runtime.probe import ProbeOptions
    from lampq_onnx.runtime.probe import probe as measure

    place = target_here(target)
    return measure(Path(float_model), place, ProbeOptions(threads=threads, batch=batch), progress=progress)


def convert(
    float_model: str | Path,
    plan: BitPlan,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Conversion:
    """Write the quantized file of a plan.

    Args:
        weights: a weights.safetensors with rounding that `quantize` found; None: to nearest.
        overwrite: replace ``output`` where it exists.
        options: packing, target, threads, and calibration (with calibration_size and seed) for ranges that the plan
            lacks.

    Raises:
        UsageError, LampqError: the plan or the weights do not fit the file, or ranges are missing.
    """
    from lampq_onnx.workflow.convert_files import convert as run

    form, images = _form(options)
    return run(
        Path(float_model),
        plan,
        Path(output),
        form,
        images,
        None if weights is None else Path(weights),
        overwrite=overwrite,
    )


def validate(
    model: str | Path,
    reference: str | Path,
    validation: str | Path,
    *,
    max_drop: float | None = None,
    gate_agreement: float | None = None,
    min_agreement: float | None = None,
    progress: ProgressSink = NO_PROGRESS,
    **options: Any,
) -> Report | None:
    """Check a quantized file against its float file; None in processes of torchrun that only help.

    A failing gate raises nothing: ask `gates_of` with the report, or have `require_gates` raise `GateError`.

    Args:
        model: the quantized file.
        reference: the float file that it was made from.
        validation: images with labels.
        max_drop: gate: largest drop of the task's score, in points.
        gate_agreement: gate: smallest measured fraction of images on which both files agree.
        min_agreement: its other name, as on the command line.
        progress: told of stages.
        options: threads, latency_threads, latency_batch, latency_runs; mean, std and crop of other images.

    Raises:
        UsageError, LampqError: a file cannot be read, the two do not belong together, or the images do not fit.
    """
    from lampq_onnx.evaluation.gates import gate_limits
    from lampq_onnx.workflow.validate_files import validate as run

    form, images = _form({"validation": validation, **options})
    limits = gate_limits(max_drop, min_agreement if gate_agreement is None else gate_agreement)
    return run(Path(model), Path(reference), images, form, limits, progress=progress)


def inspect(model: str | Path) -> list[QuantizedLayer]:
    """Quantized layers of a file.

    Raises:
        LampqError: it cannot be read.
    """
    from lampq_onnx.converter import inspect_model
    from lampq_onnx.graph.model_file import load_model

    return inspect_model(load_model(Path(model)))


def _form(options: Mapping[str, Any]) -> tuple[OutputOptions, ImageOptions]:
    values = _of_sections(options, "output", "images")
    return section("output", values), section("images", values)


def _of_sections(options: Mapping[str, Any], *sections: str) -> dict[str, dict[str, Any]]:
    """Options by section, all of them of ``sections``.

    Raises:
        UsageError: an unknown name, a value that an option cannot have, or an option of another section.
    """
    values = by_name(options)
    foreign = [name for part, own in values.items() if part not in sections for name in own]
    if foreign:
        raise UsageError(
            f"the option {foreign[0]!r} is not for this function", hint="it is one of quantize and analyze"
        )
    return values


def _asked(
    model: str | Path | Module,
    preprocessing: Preprocessing | None,
    calibration: Images | None,
    validation: Images | None,
    recipe: Recipe | str | Path | None,
    options: Mapping[str, Any],
) -> tuple[Recipe, Any]:
    """The recipe of the arguments, and the objects among them."""
    from lampq_onnx.workflow.inputs import Given

    named: dict[str, Any] = dict(options)
    objects: dict[str, Any] = {}
    images = {"calibration": calibration, "validation": validation}
    for name, value in images.items():
        (named if value is None or isinstance(value, str | Path) else objects)[name] = value
    if isinstance(model, str | Path):
        named["model"] = str(model)
    else:
        named["model"], objects["module"] = type(model).__name__, model
    base = recipe.values() if isinstance(recipe, Recipe) else read_values(Path(recipe)) if recipe else {}
    return Recipe.build(base, by_name(named)), Given(preprocessing=preprocessing, **objects)
