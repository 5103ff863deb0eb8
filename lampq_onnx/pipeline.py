"""The one module that knows all stages: model in, checked mixed-precision file out."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lampq_onnx.allocation import check_request, width_pairs
from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.budgeting import require_inputs
from lampq_onnx.cache import ArrayCache
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.files import (
    OUTPUT_FILES,
    PAGE_FILE,
    PLAN_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    SENSITIVITY_FILE,
    WEIGHTS_FILE,
    exclusive,
    require_output_file,
    staging,
    write_atomic,
)
from lampq_onnx.group import ALONE, Group, started_by_torchrun, writes_files
from lampq_onnx.inputs import Given, calibration_crops, loaded_model, prepared, validation_images
from lampq_onnx.options import (
    AllocationOptions,
    AnalysisOptions,
    ImageOptions,
    ModelOptions,
    OutputOptions,
    RoundingOptions,
)
from lampq_onnx.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.quantization.weights_file import load_weights, save_weights
from lampq_onnx.recipe import Recipe
from lampq_onnx.reporting import allocation_record, rounding_record
from lampq_onnx.targets import Target

if TYPE_CHECKING:
    from lampq_onnx.converter import Conversion
    from lampq_onnx.recognition import Recognition


def analyze(
    model: ModelOptions,
    images: ImageOptions,
    analysis: AnalysisOptions,
    rounding: RoundingOptions,
    *,
    float_output: Path | None = None,
    threads: int | None = None,
    progress: ProgressSink = NO_PROGRESS,
    given: Given | None = None,
) -> Sensitivities:
    """Measure the sensitivities of every unit of a model.

    Processes that torchrun starts share the images of ranges, traces, norms and input moments, and do the rest alike.

    Args:
        float_output: where to write the float graph that they belong to (equalized, if ``analysis`` says so).

    Raises:
        LampqError: the model or its calibration images cannot be used.
    """
    from lampq_onnx.converter import save_model
    from lampq_onnx.frontend.distributed import process_group
    from lampq_onnx.frontend.threads import torch_threads
    from lampq_onnx.runtime.environment import own_cores
    from lampq_onnx.search import measure, simulated

    clock = Clock(progress if writes_files() else NO_PROGRESS)
    with (
        process_group(model.device) as group,
        torch_threads(threads or own_cores()),
        loaded_model(model, images, clock, given) as loaded,
        calibration_crops(loaded, images, analysis.effort, clock, given) as read,
        prepared(loaded, read, images, analysis.effort, clock, group) as (frontend, crops),
    ):
        sensitivities = measure(frontend, crops, analysis, rounding, seed=images.seed, clock=clock)
        if float_output is not None and group.rank == 0:
            save_model(frontend.model, float_output)
        if analysis.simulate:
            return simulated(frontend, crops, sensitivities, AllocationOptions(candidates=analysis.candidates), clock)
        return sensitivities


def recognize(model: ModelOptions, images: ImageOptions) -> Recognition:
    """Load a model and find its layers; nothing is measured or written.

    Raises:
        LampqError: the model cannot be used.
    """
    from lampq_onnx.frontend.opening import load_model
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.recognition import Recognition, RecognizedUnit, float_operators

    frontend = Frontend(load_model(model, images))
    source = frontend.loaded.source
    return Recognition(
        model=frontend.loaded.identity.name,
        preprocessing=frontend.loaded.preprocessing.describe(),
        units=tuple(RecognizedUnit(u.name, u.type, u.matrix().shape, u.fixed) for u in frontend.exported.units),
        skipped=frontend.exported.skipped,
        elsewhere=float_operators(frontend.model),
        blocks=len(frontend.chain),
        changes={} if source is None else source.changes,
        parity=None if source is None else source.parity,
    )


def quantize(
    recipe: Recipe,
    folder: Path,
    *,
    progress: ProgressSink = NO_PROGRESS,
    cache: ArrayCache | None = None,
    force: bool = False,
    given: Given | None = None,
) -> Report:
    """Run the whole line and write its files to ``folder``: float.onnx, sensitivity.json, plan.json,
    weights.safetensors, model.onnx, report.json, report.html and recipe.toml.

    The files appear together when all is done; an earlier result in ``folder`` stays as it is until then.

    Args:
        cache: where results of finished steps are kept and looked for; None: nowhere.
        force: do every step again.
        given: Python objects that stand for the model or the images.

    Raises:
        UsageError: an option cannot be right.
        LampqError: any stage; nothing is written then.
    """
    from lampq_onnx.frontend.threads import torch_threads
    from lampq_onnx.html import write_report
    from lampq_onnx.output import QuantizedOutput
    from lampq_onnx.provenance import provenance
    from lampq_onnx.runtime.environment import available_cores, target_here
    from lampq_onnx.search import Search, inputs_of, kept_for

    if started_by_torchrun():
        raise UsageError("quantize runs in one process", hint="analyze and validate share their images under torchrun")
    check_recipe(recipe)
    output = recipe.output
    target = target_here(output.target)
    check_target(recipe, target)
    threads = output.threads or available_cores()
    recipe = recipe.with_output(target=target.name, threads=threads)
    clock = Clock(progress)
    with (
        torch_threads(threads),
        exclusive(folder),
        staging(folder, OUTPUT_FILES) as stage,
        loaded_model(recipe.model, recipe.images, clock, given) as loaded,
        calibration_crops(loaded, recipe.images, recipe.analysis.effort, clock, given) as read,
        validation_images(recipe.images, loaded, given) as validation,
        prepared(loaded, read, recipe.images, recipe.analysis.effort, clock) as (frontend, crops),
    ):
        inputs = inputs_of(frontend.loaded, crops)
        search = Search(frontend, crops, recipe, kept_for(inputs, recipe, cache, clock, force=force), clock)
        found = search.run()
        job = QuantizedOutput(frontend, validation, output, target, threads, stage, clock)
        report = job.run(found.rounded, found.sensitivities, provenance(recipe, inputs))
        errors = search.reconstruction_errors(found.plan)
        baselines = {metric: job.baseline(search.baseline(found, metric), metric) for metric in output.baselines}
        report = report.model_copy(
            update={
                "layers": tuple(
                    layer.model_copy(update={"reconstruction_error": errors.get(layer.name)}) for layer in report.layers
                ),
                "rounding": rounding_record(
                    recipe.rounding.effort, found.rounded.methods, found.rounded.losses, found.rounded.kept
                ),
                "equalized": frontend.equalized,
                "allocation": allocation_record(found.plan, found.solution, found.update),
                "baselines": baselines,
                "seconds": clock.seconds,
            }
        )
        found.sensitivities.save(stage / SENSITIVITY_FILE)
        found.plan.save(stage / PLAN_FILE)
        save_weights(found.rounded.weights, stage / WEIGHTS_FILE)
        report.save(stage / REPORT_FILE)
        write_report(report, stage / PAGE_FILE, found.sensitivities)
        write_atomic(stage / RECIPE_FILE, recipe.to_toml().encode())
    return report


def convert(
    float_path: Path,
    plan: BitPlan,
    output: Path,
    options: OutputOptions,
    images: ImageOptions,
    weights_path: Path | None = None,
    *,
    progress: ProgressSink = NO_PROGRESS,
) -> Conversion:
    """Write the QDQ file of a plan; torch is not needed.

    A plan made on another file of the model is matched by the layers' weights.
    Ranges that the plan lacks are measured (min-max) on ``images.calibration`` with onnxruntime. Layers of which
    ``weights_path`` (a weights.safetensors) holds the planned width take its rounding, the others the nearest one.

    Raises:
        LampqError: the plan or the weights do not fit the file, or ranges are missing and there are no images.
    """
    from lampq_onnx.calibration import with_measured_ranges
    from lampq_onnx.converter import load_model
    from lampq_onnx.converter.convert import require_runnable
    from lampq_onnx.converter.matching import fit_plan, names_layers
    from lampq_onnx.importer import is_foreign, write_normal_form
    from lampq_onnx.output import write_quantized
    from lampq_onnx.runtime.environment import target_here

    target = target_here(options.target)
    require_runnable(plan, target)
    require_output_file(output)
    weights = {} if weights_path is None else load_weights(weights_path)
    with ExitStack() as stack:
        model = load_model(float_path)
        if is_foreign(model) and not names_layers(model, plan):
            room = Path(stack.enter_context(TemporaryDirectory(prefix="lampq-")))
            float_path = write_normal_form(float_path, images, room / float_path.name)
            model = load_model(float_path)
        fitted = fit_plan(model, plan)
        plan = fitted.plan
        if fitted.renamed and weights_path is not None:
            raise LampqError(
                f"{weights_path} was written with another float file than {float_path}, whose layers have other names",
                hint="leave out --weights: the layers are then rounded to nearest",
            )
        if any(layer.quantized and layer.activation_range is None for layer in plan.layers.values()):
            plan = with_measured_ranges(model, float_path, plan, images, threads=options.threads, progress=progress)
        stage = stack.enter_context(staging(output.parent, (output.name,)))
        return write_quantized(model, plan, weights, stage / output.name, options, target)


def validate(
    model_path: Path,
    reference_path: Path,
    images: ImageOptions,
    options: OutputOptions,
    *,
    progress: ProgressSink = NO_PROGRESS,
) -> Report | None:
    """Check a quantized file against its float file; torch is not needed.

    Processes that torchrun starts share the images; torch is needed for that. The first one measures what is not a sum
    over images, and returns the report; the others return None.

    Raises:
        LampqError: a file cannot be read, or the images do not fit it.
    """
    from lampq_onnx.checks import FilePair, check_files, share_accuracy
    from lampq_onnx.converter import inspect_model, load_model
    from lampq_onnx.converter.convert import embedded_plan
    from lampq_onnx.metadata import read_metadata
    from lampq_onnx.metadata_keys import TARGET_KEY
    from lampq_onnx.runtime.environment import own_cores
    from lampq_onnx.tasks.meters import open_validation

    if images.validation is None:
        raise LampqError("no validation images", hint="give labelled images with --validation")
    model, reference = load_model(model_path), load_model(reference_path)
    facts = read_metadata(reference, reference_path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    source = open_validation(images.validation, facts.task, facts.num_classes)
    files = FilePair(
        model=facts.name,
        reference=reference_path,
        quantized=model_path,
        layers=inspect_model(model),
        plan=embedded_plan(model, model_path),
        images=source,
        preprocessing=preprocessing,
        task=facts.task,
    )
    threads = options.threads or own_cores()
    with _group() as group:
        if group.rank:
            share_accuracy(files, threads, group, NO_PROGRESS)
            return None
        return check_files(
            files,
            options,
            target=model.metadata_props.get(TARGET_KEY, "unknown"),
            threads=threads,
            clock=Clock(progress),
            group=group,
        )


def _group() -> AbstractContextManager[Group]:
    """The processes of this run, on CPUs; torch is only loaded where there are several."""
    if not started_by_torchrun():
        return nullcontext(ALONE)
    from lampq_onnx.frontend.distributed import process_group

    return process_group("cpu")


def check_recipe(recipe: Recipe) -> None:
    """Refuse what cannot be right before anything is loaded.

    Raises:
        UsageError: an option out of range.
        LampqError: the budget is below the smallest candidate.
    """
    options = recipe.allocation
    check_request(
        bits=options.bits,
        candidates=options.candidates,
        metric=options.metric,
        gamma=options.gamma,
        activation_bits=options.activation_bits,
        activation_budget=options.activation_budget,
        activation_candidates=options.activation_candidates,
        wide_price=options.wide_price,
    )
    for baseline in recipe.output.baselines:
        check_request(bits=options.bits, candidates=options.candidates, metric=baseline)


def check_target(recipe: Recipe, target: Target) -> None:
    """Refuse widths, a packing or budgets that the target cannot have, before anything is loaded.

    Raises:
        UsageError: names the nearest widths, or the packings, that it can; or what a budget needs.
    """
    target.require_widths(width_pairs(recipe.allocation))
    if recipe.output.packing != "auto":
        target.require_packing(recipe.output.packing)
    require_inputs(recipe, target)
