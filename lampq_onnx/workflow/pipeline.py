"""The one module that knows all stages: model in, checked mixed-precision file out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lampq_onnx.allocation import check_request, width_pairs
from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.config.options import (
    DIGITS,
    AllocationOptions,
    AnalysisOptions,
    ImageOptions,
    ModelOptions,
    OutputOptions,
    RoundingOptions,
)
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import (
    OUTPUT_FILES,
    PAGE_FILE,
    PLAN_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    SENSITIVITY_FILE,
    WEIGHTS_FILE,
    exclusive,
    require_writable,
    staging,
    write_atomic,
)
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.records import allocation_record, rounding_record
from lampq_onnx.quantization.weights_file import load_weights, save_weights
from lampq_onnx.running.processes import ALONE, Group, started_by_torchrun, writes_files
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.targets import Target
from lampq_onnx.workflow.inputs import Given, calibration_crops, loaded_model, prepared, uses_labels
from lampq_onnx.workflow.opened import exported, opened_inputs, opened_run
from lampq_onnx.workflow.planning import require_inputs

if TYPE_CHECKING:
    from lampq_onnx.converter import Conversion
    from lampq_onnx.graph.recognition import Recognition
    from lampq_onnx.workflow.earlier import Earlier
    from lampq_onnx.workflow.provenance import Inputs

NO_LIMITS = GateLimits()

_log = logging.getLogger(__name__)


def analyze(
    model: ModelOptions,
    images: ImageOptions,
    analysis: AnalysisOptions,
    rounding: RoundingOptions,
    *,
    float_output: Path | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: ProgressSink = NO_PROGRESS,
    given: Given | None = None,
) -> Sensitivities:
    """Measure the sensitivities of every unit of a model.

    Processes that torchrun starts share the images of ranges, traces, norms and input moments, and do the rest alike.

    Args:
        float_output: where to write the float graph that they belong to (equalized, if ``analysis`` says so).
        overwrite: replace ``float_output`` where it exists.

    Raises:
        LampqError: the model or its calibration images cannot be used.
    """
    from lampq_onnx.frontend.shared.distributed import process_group
    from lampq_onnx.frontend.shared.threads import torch_threads
    from lampq_onnx.graph.model_file import save_model
    from lampq_onnx.runtime.environment import own_cores
    from lampq_onnx.workflow.search import measure, simulated

    require_new_files((float_output,), overwrite=overwrite)
    clock = Clock(progress if writes_files() else NO_PROGRESS)
    with (
        process_group(model.device) as group,
        torch_threads(threads or own_cores()),
        loaded_model(model, images, clock, given) as loaded,
        calibration_crops(loaded, images, analysis.effort, clock, given, labelled=uses_labels(analysis)) as read,
        prepared(loaded, read, images, analysis.effort, clock, group) as (frontend, crops),
    ):
        sensitivities = measure(frontend, crops, analysis, rounding, seed=images.seed, clock=clock)
        if float_output is not None and group.rank == 0:
            with staging(float_output.parent, (float_output.name,)) as stage:
                save_model(frontend.model, stage / float_output.name)
        if analysis.simulate:
            return simulated(frontend, crops, sensitivities, AllocationOptions(candidates=analysis.candidates), clock)
        return sensitivities


def recognize(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    overwrite: bool = False,
    given: Given | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> Recognition:
    """What `quantize` would do, and refuse, before its first measurement; nothing is measured or written.

    Args:
        recipe: images that it does not name are not looked for; those that it names are opened.
        folder: of the result; None: not said yet.
        overwrite: see `quantize`.
        given: Python objects that stand for the model or the images.

    Raises:
        UsageError, LampqError: see `quantize`.
    """
    from lampq_onnx.frontend.recognized import recognized
    from lampq_onnx.frontend.shared.threads import torch_threads
    from lampq_onnx.workflow.feasibility import require_possible, require_space_for

    recipe, target, _ = _checked(recipe, folder, overwrite=overwrite)
    with (
        torch_threads(recipe.output.threads or 1),
        opened_run(recipe, Clock(progress), given, rehearsal=True) as opened,
    ):
        if folder is not None:
            require_space_for(opened.frontend.loaded, folder, baselines=len(recipe.output.baselines))
        require_possible(opened.frontend, recipe, target)
        return recognized(opened.frontend, opened.crops, equalize=recipe.analysis.equalize)


def _checked(recipe: Recipe, folder: Path | None, *, overwrite: bool) -> tuple[Recipe, Target, Earlier | None]:
    """The recipe with its target and threads, the target, and the result that lies in ``folder`` already.

    Raises:
        UsageError: an option cannot be right, or ``folder`` holds the result of another recipe.
        LampqError: the budget is below the smallest candidate.
    """
    from lampq_onnx.runtime.environment import available_cores, target_here
    from lampq_onnx.workflow.earlier import earlier_result

    if started_by_torchrun():
        raise UsageError("quantize runs in one process", hint="analyze and validate share their images under torchrun")
    target = target_here(recipe.output.target)
    check_options(recipe, target)
    recipe = recipe.with_output(target=target.name, threads=recipe.output.threads or available_cores())
    earlier = None
    if folder is not None:
        require_writable(folder)
        earlier = None if overwrite else earlier_result(folder)
    if earlier is not None:
        earlier.require_recipe(recipe)
    return recipe, target, earlier


def quantize(
    recipe: Recipe,
    folder: Path,
    *,
    progress: ProgressSink = NO_PROGRESS,
    cache: ArrayCache | None = None,
    force: bool = False,
    overwrite: bool = False,
    given: Given | None = None,
    say: Callable[[str], None] = _log.info,
) -> Report:
    """Run the whole line and write its files to ``folder``: float.onnx, sensitivity.json, plan.json,
    weights.safetensors, model.onnx, report.json, report.html and recipe.toml.

    The files appear together when all is done; an earlier result in ``folder`` stays as it is until then. Where it is
    the result of this recipe on this model and these images, it is the answer, and nothing is done. Where only options
    differ that say how it is measured, the run goes on from the cache and writes it again.

    Args:
        cache: where results of finished steps are kept and looked for; None: nowhere.
        force: do every step again.
        overwrite: replace the result of another recipe; what was made from it is removed or marked, see `derived`.
        given: Python objects that stand for the model or the images.
        say: is told what becomes of an earlier result.

    Raises:
        UsageError: an option cannot be right, or ``folder`` holds another result.
        LampqError: any stage; nothing is written then.
    """
    from lampq_onnx.frontend.shared.threads import torch_threads
    from lampq_onnx.serving.derived import find_derived

    require_images(recipe, given)
    recipe, target, earlier = _checked(recipe, folder, overwrite=overwrite)
    with torch_threads(recipe.output.threads or 1), exclusive(folder):
        derived = find_derived(folder, OUTPUT_FILES)
        report = _run(recipe, folder, target, Clock(progress), cache, given, earlier, say, force=force)
        for line in derived.retire():
            say(line)
    return report


def _run(
    recipe: Recipe,
    folder: Path,
    target: Target,
    clock: Clock,
    cache: ArrayCache | None,
    given: Given | None,
    earlier: Earlier | None,
    say: Callable[[str], None],
    *,
    force: bool,
) -> Report:
    """The stages of `quantize`, once nobody else writes to the folder."""
    from lampq_onnx.html import write_report
    from lampq_onnx.workflow.feasibility import require_possible, require_space_for
    from lampq_onnx.workflow.output import QuantizedOutput
    from lampq_onnx.workflow.provenance import provenance
    from lampq_onnx.workflow.search import Search, inputs_of, kept_for

    output = recipe.output
    with (
        staging(folder, OUTPUT_FILES) as stage,
        opened_inputs(recipe, clock, given) as opened,
    ):
        loaded, read = opened.loaded, opened.read
        if earlier is not None and read is not None:
            now = inputs_of(loaded, read)
            # The export may set attributes of modules, so that their settings are compared after it.
            earlier.require_inputs(now.model_copy(update={"structure_sha256": earlier.inputs.structure_sha256}))
            if not force and _is_done(earlier, recipe, now):
                return _taken(folder, say)
        require_space_for(loaded, folder, baselines=len(output.baselines))
        with exported(opened, recipe, clock) as run:
            frontend, crops, validation = run.measured()
            inputs = inputs_of(frontend.loaded, crops)
            if earlier is not None:
                earlier.require_inputs(inputs)
                if not force and _is_done(earlier, recipe, inputs):
                    return _taken(folder, say)
                say(f"{folder} holds a result of this recipe, which is written again: {_why(earlier, recipe)}")
            require_possible(frontend, recipe, target)
            recipe = recipe.with_task(frontend.loaded.task.kind)
            kept = kept_for(inputs, frontend.loaded.task, recipe, cache, clock, force=force)
            search = Search(frontend, crops, recipe, kept, clock)
            found = search.run()
            job = QuantizedOutput(frontend, validation, output, target, recipe.output.threads or 1, stage, clock)
            report = job.run(found.rounded, found.sensitivities, provenance(recipe, inputs), recipe_limits(recipe))
            errors = search.reconstruction_errors(found.plan)
            baselines = {metric: job.baseline(search.baseline(found, metric), metric) for metric in output.baselines}
            report = report.model_copy(
                update={
                    "layers": tuple(
                        layer.model_copy(update={"reconstruction_error": errors.get(layer.name)})
                        for layer in report.layers
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
    say(f"wrote {', '.join(OUTPUT_FILES)} to {folder}")
    return report


def _taken(folder: Path, say: Callable[[str], None]) -> Report:
    say(f"done already: {folder} holds the result of this recipe; nothing was written (--force does all of it again)")
    return Report.load(folder / REPORT_FILE)


def _is_done(earlier: Earlier, recipe: Recipe, now: Inputs) -> bool:
    return earlier.complete and not earlier.inputs.changes(now) and not earlier.measured_otherwise(recipe)


def _why(earlier: Earlier, recipe: Recipe) -> str:
    """Why a result of the same recipe is not simply taken."""
    other = earlier.measured_otherwise(recipe)
    if not earlier.complete:
        return "files of it are missing"
    return f"measured in another way ({'; '.join(other)})" if other else "every step is done again (--force)"


def convert(
    float_path: Path,
    plan: BitPlan,
    output: Path,
    options: OutputOptions,
    images: ImageOptions,
    weights_path: Path | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
) -> Conversion:
    """Write the QDQ file of a plan; torch is not needed.

    A plan made on another file of the model is matched by the layers' weights.
    Ranges that the plan lacks are measured (min-max) on ``images.calibration`` with onnxruntime. Layers of which
    ``weights_path`` (a weights.safetensors) holds the planned width take its rounding, the others the nearest one.

    Args:
        overwrite: replace ``output`` where it exists.

    Raises:
        UsageError: ``output`` exists.
        LampqError: the plan quantizes nothing, the plan or the weights do not fit the file, or ranges are missing and
            there are no images.
    """
    from lampq_onnx.converter.convert import require_runnable
    from lampq_onnx.graph.matching import fit_plan, names_layers
    from lampq_onnx.graph.model_file import load_model
    from lampq_onnx.graph.quantized_operators import require_float_file
    from lampq_onnx.importer import is_foreign, write_normal_form
    from lampq_onnx.runtime.environment import target_here
    from lampq_onnx.workflow.output import write_quantized
    from lampq_onnx.workflow.ranges import with_measured_ranges

    target = target_here(options.target)
    require_runnable(plan, target)
    require_new_files((output,), overwrite=overwrite)
    if not any(layer.quantized for layer in plan.layers.values()):
        raise LampqError(
            f"the plan leaves all of its {len(plan.layers)} layers in float: there is nothing to convert",
            hint="give layers a weight_bits below 32",
        )
    weights = {} if weights_path is None else load_weights(weights_path)
    with ExitStack() as stack:
        model = load_model(float_path)
        require_float_file(model, float_path)
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
    limits: GateLimits = NO_LIMITS,
    *,
    progress: ProgressSink = NO_PROGRESS,
) -> Report | None:
    """Check a quantized file against its float file; torch is not needed.

    Processes that torchrun starts share the images; torch is needed for that. The first one measures what is not a sum
    over images, and returns the report; the others return None.

    Args:
        model_path: the quantized file.
        reference_path: the float file that it was made from.
        images: with the validation images.
        options: threads, and how latency is measured.
        limits: of the gates; the report keeps them, and `gates_of` applies them.
        progress: told of stages.

    Raises:
        LampqError: a file cannot be read, or the images do not fit it.
    """
    from lampq_onnx.converter import inspect_model
    from lampq_onnx.converter.convert import embedded_plan
    from lampq_onnx.evaluation.checks import FilePair, check_files, require_scores, share_accuracy
    from lampq_onnx.evaluation.comparable import ModelFile, require_comparable
    from lampq_onnx.evaluation.tasks.meters import open_validation
    from lampq_onnx.graph.keys import TARGET_KEY
    from lampq_onnx.graph.metadata import read_metadata
    from lampq_onnx.graph.model_file import load_model
    from lampq_onnx.runtime.environment import own_cores

    if images.validation is None:
        raise LampqError("no validation images", hint="give labelled images with --validation")
    model, reference = load_model(model_path), load_model(reference_path)
    require_comparable(ModelFile(model, model_path), ModelFile(reference, reference_path))
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
    require_scores(files, threads)
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
            limits=limits,
            group=group,
        )


def _group() -> AbstractContextManager[Group]:
    """The processes of this run, on CPUs; torch is only loaded where there are several."""
    if not started_by_torchrun():
        return nullcontext(ALONE)
    from lampq_onnx.frontend.shared.distributed import process_group

    return process_group("cpu")


def recipe_limits(recipe: Recipe) -> GateLimits:
    """The gates of `quantize`: what --gate-agreement says, and the agreement that a budget was given for."""
    least = max(recipe.output.gate_agreement, recipe.budgets.min_agreement or 0.0)
    return GateLimits(min_agreement=least or None)


def check_options(recipe: Recipe, target: Target) -> None:
    """Refuse what can be known to be wrong before anything is loaded.

    Raises:
        UsageError: an option out of range, widths, a packing or a budget that the target cannot have, or times that
            were measured otherwise.
        LampqError: the budget is below the smallest candidate.
    """
    check_recipe(recipe)
    check_target(recipe, target)


def require_images(recipe: Recipe, given: Given | None = None) -> None:
    """Refuse a run without the images that it needs.

    Raises:
        UsageError: naming the option.
    """
    missing = missing_images(recipe, given)
    if missing:
        raise UsageError(" and ".join(f"no {what}" for what in missing), hint="; ".join(missing.values()))


def missing_images(recipe: Recipe, given: Given | None = None) -> dict[str, str]:
    """Images that a run needs and that are not named -> how to name them; the embedded model has its own."""
    if recipe.model.name == DIGITS and (given is None or given.module is None):
        return {}
    found = {}
    if recipe.images.validation is None and (given is None or given.validation is None):
        found["validation images"] = "give labelled images with --validation"
    if recipe.images.calibration is None and (given is None or given.calibration is None):
        found["calibration images"] = (
            "give a folder or .npz file with --calibration; 128 images are enough. Without any, "
            "--calibration synthetic makes them from the model"
        )
    return found


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
