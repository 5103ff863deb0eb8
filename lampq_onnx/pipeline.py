"""The one module that knows all stages: model in, checked mixed-precision file out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lampq_onnx.allocation import (
    Solution,
    UpdateResult,
    allocate,
    capacity_of,
    check_request,
    iterative_update,
)
from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.errors import LampqError
from lampq_onnx.files import (
    OUTPUT_FILES,
    PAGE_FILE,
    PLAN_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    SENSITIVITY_FILE,
    WEIGHTS_FILE,
    require_output_file,
    require_writable,
    staging,
    write_atomic,
)
from lampq_onnx.options import (
    AllocationOptions,
    AnalysisOptions,
    EffortName,
    ImageOptions,
    ModelOptions,
    OutputOptions,
    RoundingOptions,
    UpdateOptions,
)
from lampq_onnx.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.quantization.weights_file import load_weights, save_weights
from lampq_onnx.recipe import Recipe
from lampq_onnx.reporting import allocation_record

if TYPE_CHECKING:
    from lampq_onnx.converter import Conversion
    from lampq_onnx.data import ImageSource
    from lampq_onnx.frontend.batching import SlicedImages
    from lampq_onnx.frontend.session import Frontend
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
) -> Sensitivities:
    """Measure the sensitivities of every unit of a model.

    Args:
        float_output: where to write the float graph that they belong to (equalized, if ``analysis`` says so).

    Raises:
        LampqError: the model or its calibration images cannot be used.
    """
    from lampq_onnx.converter import save_model
    from lampq_onnx.frontend.session import torch_threads
    from lampq_onnx.runtime.environment import available_cores

    clock = Clock(progress)
    with (
        torch_threads(threads or available_cores()),
        _prepared(model, images, analysis.effort, clock) as (frontend, crops),
    ):
        if analysis.equalize:
            frontend.equalize(crops, analysis, seed=images.seed, progress=clock)
        if float_output is not None:
            save_model(frontend.model, float_output)
        if rounding.method == "gptq":
            frontend.use_gptq(crops, widths=analysis.candidates, progress=clock)
        return _analyze(frontend, crops, analysis, images.seed, clock)


def recognize(model: ModelOptions, images: ImageOptions) -> Recognition:
    """Load a model and find its layers; nothing is measured or written.

    Raises:
        LampqError: the model cannot be used.
    """
    from lampq_onnx.frontend.session import Frontend, load_model
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


def quantize(recipe: Recipe, folder: Path, *, progress: ProgressSink = NO_PROGRESS) -> Report:
    """Run the whole line and write its files to ``folder``: float.onnx, sensitivity.json, plan.json,
    weights.safetensors, model.onnx, report.json, report.html and recipe.toml.

    The files appear together when all is done; an earlier result in ``folder`` stays as it is until then.

    Raises:
        UsageError: an option cannot be right.
        LampqError: any stage; nothing is written then.
    """
    from lampq_onnx.converter.targets import target_for
    from lampq_onnx.frontend.session import torch_threads
    from lampq_onnx.html import write_report
    from lampq_onnx.output import QuantizedOutput
    from lampq_onnx.runtime.environment import available_cores, cpu_flags, machine

    model, images, analysis, rounding = recipe.model, recipe.images, recipe.analysis, recipe.rounding
    allocation, update, output = recipe.allocation, recipe.update, recipe.output
    check_request(
        bits=allocation.bits,
        candidates=allocation.candidates,
        metric=allocation.metric,
        gamma=allocation.gamma,
        activation_bits=allocation.activation_bits,
        activation_budget=allocation.activation_budget,
        activation_candidates=allocation.activation_candidates,
        wide_price=allocation.wide_price,
    )
    for baseline in output.baselines:
        check_request(bits=allocation.bits, candidates=allocation.candidates, metric=baseline)
    target = target_for(output.target, machine(), cpu_flags())
    require_writable(folder)
    threads = output.threads or available_cores()
    clock = Clock(progress)
    with (
        torch_threads(threads),
        staging(folder, OUTPUT_FILES) as stage,
        _prepared(model, images, analysis.effort, clock) as (frontend, crops),
    ):
        validation = _validation_source(images, frontend)
        if analysis.equalize:
            frontend.equalize(crops, analysis, seed=images.seed, progress=clock)
        if rounding.method == "gptq":
            frontend.use_gptq(crops, widths=allocation.candidates, progress=clock)
        sensitivities = _analyze(frontend, crops, analysis, images.seed, clock)
        with clock.stage("allocation"):
            plan, solution = _allocate(sensitivities, allocation)
        plan, result = _update(frontend, crops, plan, allocation, update, sensitivities, clock)
        job = QuantizedOutput(frontend, validation, output, target, threads, stage, clock)
        rounded = frontend.round(plan, crops, rounding, update, seed=images.seed, progress=clock)
        plan = rounded.plan
        report = job.run(rounded, sensitivities, rounding.effort)
        evaluator = frontend.evaluator(plan, crops, update)
        with clock.stage("reconstruction errors"):
            errors = evaluator.reconstruction_errors(
                {name: layer.weight_bits for name, layer in plan.layers.items() if not layer.fixed}
            )
        baselines = {}
        for metric in output.baselines:
            other, _ = _allocate(sensitivities, allocation.model_copy(update={"metric": metric}))
            same = frontend.round(other, crops, rounding, update, seed=images.seed, progress=clock)
            baselines[metric] = job.baseline(same, metric)
        report = report.model_copy(
            update={
                "layers": tuple(
                    layer.model_copy(update={"reconstruction_error": errors.get(layer.name)}) for layer in report.layers
                ),
                "equalized": frontend.equalized,
                "allocation": allocation_record(plan, solution, result),
                "baselines": baselines,
                "seconds": clock.seconds,
            }
        )
        sensitivities.save(stage / SENSITIVITY_FILE)
        plan.save(stage / PLAN_FILE)
        save_weights(rounded.weights, stage / WEIGHTS_FILE)
        report.save(stage / REPORT_FILE)
        write_report(report, stage / PAGE_FILE, sensitivities)
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

    Ranges that the plan lacks are measured (min-max) on ``images.calibration`` with onnxruntime. Layers of which
    ``weights_path`` (a weights.safetensors) holds the planned width take its rounding, the others the nearest one.

    Raises:
        LampqError: the plan or the weights do not fit the file, or ranges are missing and there are no images.
    """
    from lampq_onnx.calibration import with_measured_ranges
    from lampq_onnx.converter import load_model
    from lampq_onnx.converter.targets import target_for
    from lampq_onnx.output import write_quantized
    from lampq_onnx.runtime.environment import cpu_flags, machine

    target = target_for(options.target, machine(), cpu_flags())
    require_output_file(output)
    weights = {} if weights_path is None else load_weights(weights_path)
    model = load_model(float_path)
    if any(layer.quantized and layer.activation_range is None for layer in plan.layers.values()):
        plan = with_measured_ranges(model, float_path, plan, images, threads=options.threads, progress=progress)
    with staging(output.parent, (output.name,)) as stage:
        return write_quantized(model, plan, weights, stage / output.name, options, target)


def validate(
    model_path: Path,
    reference_path: Path,
    images: ImageOptions,
    options: OutputOptions,
    *,
    progress: ProgressSink = NO_PROGRESS,
) -> Report:
    """Check a quantized file against its float file; torch is not needed.

    Raises:
        LampqError: a file cannot be read, or the images do not fit it.
    """
    from lampq_onnx.checks import FilePair, check_files
    from lampq_onnx.converter import inspect_model, load_model
    from lampq_onnx.converter.convert import embedded_plan
    from lampq_onnx.data import open_source
    from lampq_onnx.metadata import TARGET_KEY, read_metadata
    from lampq_onnx.runtime.environment import available_cores

    if images.validation is None:
        raise LampqError("no validation images", hint="give labelled images with --validation")
    model, reference = load_model(model_path), load_model(reference_path)
    facts = read_metadata(reference, reference_path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    source = open_source(images.validation, num_classes=facts.num_classes, need_labels=True)
    return check_files(
        FilePair(
            model=facts.name,
            reference=reference_path,
            quantized=model_path,
            layers=inspect_model(model),
            plan=embedded_plan(model),
            images=source,
            preprocessing=preprocessing,
        ),
        options,
        target=model.metadata_props.get(TARGET_KEY, "unknown"),
        threads=options.threads or available_cores(),
        clock=Clock(progress),
    )


def _analyze(
    frontend: Frontend, crops: SlicedImages, options: AnalysisOptions, seed: int, clock: Clock
) -> Sensitivities:
    sensitivities = frontend.analyze(crops, options, seed=seed, progress=clock)
    return sensitivities.model_copy(update={"seconds": dict(clock.seconds)})


def _allocate(sensitivities: Sensitivities, options: AllocationOptions) -> tuple[BitPlan, Solution]:
    return allocate(
        sensitivities,
        bits=options.bits,
        candidates=options.candidates,
        metric=options.metric,
        gamma=options.gamma,
        activation_bits=options.activation_bits,
        activation_budget=options.activation_budget,
        activation_candidates=options.activation_candidates,
        wide_price=options.wide_price,
        time_limit=options.time_limit,
        fixed_bits=options.fixed_bits,
    )


def _update(
    frontend: Frontend,
    crops: SlicedImages,
    plan: BitPlan,
    allocation: AllocationOptions,
    options: UpdateOptions,
    sensitivities: Sensitivities,
    clock: Clock,
) -> tuple[BitPlan, UpdateResult | None]:
    if options.rounds == 0:
        return plan, None
    coupled = sensitivities if allocation.activation_bits == "same" else None
    counted = {name: layer for name, layer in plan.layers.items() if not layer.fixed}
    sizes = {name: layer.parameters or 0 for name, layer in counted.items()}
    with clock.stage("iterative update"):
        result = iterative_update(
            {name: layer.weight_bits for name, layer in counted.items()},
            sizes,
            capacity_of(allocation.bits, sum(sizes.values())),
            allocation.candidates,
            frontend.evaluator(plan, crops, options, coupled=coupled),
            rounds=options.rounds,
            patience=options.patience,
            budget_rule=options.rule,
        )
    if coupled is None:
        return plan.with_weight_bits(result.bits), result
    ranges = {unit.name: unit.activation_ranges for unit in coupled.units}
    return plan.with_coupled_bits(result.bits, ranges), result


@contextmanager
def _prepared(
    model: ModelOptions, images: ImageOptions, effort: EffortName, clock: Clock
) -> Iterator[tuple[Frontend, SlicedImages]]:
    """The loaded model, and its calibration images cropped once into a temporary file."""
    from lampq_onnx.data import CroppedImages
    from lampq_onnx.frontend.session import Frontend, calibration_images, load_model

    with clock.stage("load"):
        loaded = load_model(model, images)
    if isinstance(images.calibration, str):
        with clock.stage("export"):
            frontend = Frontend(loaded)
        chosen, preprocessing = calibration_images(loaded, frontend.exported.units, images, effort, clock)
    else:
        # Images first: a wrong folder is found before the export.
        chosen, preprocessing = calibration_images(loaded, (), images, effort, clock)
        with clock.stage("export"):
            frontend = Frontend(loaded)
    with ExitStack() as stack:
        with clock.stage("calibration images", len(chosen)) as advance:
            cropped = stack.enter_context(CroppedImages(chosen, preprocessing, progress=advance))
        yield frontend, cropped


def _validation_source(images: ImageOptions, frontend: Frontend) -> ImageSource:
    """Labelled images, opened (and their labels checked) before any long stage."""
    from lampq_onnx.data import open_source
    from lampq_onnx.frontend.loading import DIGITS
    from lampq_onnx.frontend.session import digits_source

    identity = frontend.loaded.identity
    if images.validation is not None:
        return open_source(images.validation, num_classes=identity.num_classes, need_labels=True)
    if identity.name == DIGITS:
        return digits_source("test")
    raise LampqError("no validation images", hint="give labelled images with --validation")
