"""`quantize`: model in, checked mixed-precision file out; and `recognize`, its rehearsal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lampq_onnx.allocation import costs_against_uniform
from lampq_onnx.artifacts import Report
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.disk.cache import ArrayCache
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
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.records import allocation_record, rounding_record
from lampq_onnx.frontend.load import measure_load
from lampq_onnx.frontend.recognized import recognized
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.graph.recognition import PlannedStage, Recognition
from lampq_onnx.html import write_report
from lampq_onnx.quantization.weights_file import save_weights
from lampq_onnx.running.processes import started_by_torchrun
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.environment import available_cores, target_here
from lampq_onnx.runtime.runtimes import require_runtime
from lampq_onnx.serving.derived import find_derived
from lampq_onnx.targets import Target
from lampq_onnx.workflow.earlier import Earlier, earlier_result
from lampq_onnx.workflow.estimates import checking_stages, peak_bytes, planned_stages
from lampq_onnx.workflow.feasibility import require_possible, require_space_for
from lampq_onnx.workflow.forecasts import calibration_count
from lampq_onnx.workflow.inputs import Given
from lampq_onnx.workflow.opened import exported, opened_inputs, opened_run
from lampq_onnx.workflow.output import QuantizedOutput
from lampq_onnx.workflow.provenance import Inputs, provenance
from lampq_onnx.workflow.requests import check_options, recipe_for, recipe_limits, require_images
from lampq_onnx.workflow.search import Search, inputs_of, kept_for

_log = logging.getLogger(__name__)


def recognize(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    overwrite: bool = False,
    given: Given | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> Recognition:
    """Find out what `quantize` would do or refuse before its first measurement; nothing is measured or written.

    Args:
        recipe: images that it names are opened; others are not searched.
        folder: folder of the result; None: not decided yet.
        overwrite: see `quantize`.
        given: Python objects that replace the model or the images.
        progress: is told about stages.

    Raises:
        UsageError: see `quantize`.
        LampqError: see `quantize`.
    """
    recipe, target, _ = _checked(recipe, folder, overwrite=overwrite)
    clock = Clock(progress)
    with (
        torch_threads(recipe.output.threads or 1),
        opened_run(recipe, clock, given, images="named") as opened,
    ):
        if folder is not None:
            require_space_for(opened.frontend.loaded, folder, baselines=len(recipe.output.baselines))
        require_possible(opened.frontend, recipe, target)
        found = recognized(opened.frontend, opened.crops, equalize=recipe.analysis.equalize)
        load = measure_load(opened.frontend)
        count = calibration_count(recipe) if opened.crops is None else len(opened.crops)
        stages = stages_of(recipe, target)
        planned = [PlannedStage(name.replace("_", " "), seconds) for name, seconds in clock.seconds.items()]
        planned += planned_stages(recipe, stages, load, count)
        if opened.validation is not None:
            reading = 0.0 if opened.crops is None else clock.seconds.get("calibration_images", 0.0) / count
            planned += checking_stages(recipe, stages, load, len(opened.validation), reading)
        return replace(found, stages=tuple(planned), peak_bytes=peak_bytes(load))


def _checked(recipe: Recipe, folder: Path | None, *, overwrite: bool) -> tuple[Recipe, Target, Earlier | None]:
    """Complete the recipe with target and threads; return it with the target and an existing result in ``folder``.

    Raises:
        UsageError: an option is invalid, or ``folder`` holds the result of another recipe.
        LampqError: the budget is below the smallest candidate.
    """
    if started_by_torchrun():
        raise UsageError("quantize runs in one process", hint="analyze and validate share their images under torchrun")
    target = target_here(recipe.output.target_name)
    recipe = recipe_for(recipe, target)
    check_options(recipe, target)
    require_runtime(engine_for(recipe.output.runtime, recipe.output.inference_precision, target.name))
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
    """Run all stages, from the float model to the report, and write the files to ``folder``.

    The files are float.onnx, sensitivity.json, plan.json, weights.safetensors, model.onnx, report.json, report.html and
    recipe.toml.

    They appear together when all is done; an earlier result in ``folder`` is kept until then. If it is the result of
    this recipe on this model and these images, it is returned and nothing is done. If only options differ that say how
    it is measured, the run uses cached steps and writes it again.

    Args:
        recipe: all options of the run.
        folder: where the files go.
        progress: is told about stages.
        cache: where results of finished steps are kept and found; None: nowhere.
        force: do every step again.
        overwrite: replace the result of another recipe; files that were made from it are removed or marked, see
            `derived`.
        given: Python objects that replace the model or the images.
        say: is told what happens to an earlier result.

    Raises:
        UsageError: an option is invalid, or ``folder`` holds another result.
        LampqError: a stage failed; nothing is written then.
    """
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
    """Run the stages of `quantize`, once no other run writes to the folder."""
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
            stages = stages_of(recipe, target)
            search = Search(frontend, crops, recipe, stages, kept, clock)
            found = search.run(last=not output.baselines)
            job = QuantizedOutput(frontend, crops, validation, output, target, recipe.output.threads or 1, stage, clock)
            report = job.run(
                found.rounded, found.sensitivities, provenance(recipe, inputs), recipe_limits(recipe),
                details=stages.layer_errors,
            )  # fmt: skip
            errors = search.reconstruction_errors(found) if stages.layer_errors else {}
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
                    "allocation": allocation_record(
                        found.plan,
                        found.solution,
                        found.update,
                        costs_against_uniform(found.sensitivities, found.plan, recipe.allocation),
                    ),
                    "baselines": baselines,
                    "seconds": clock.seconds,
                }
            )
            found.sensitivities.save(stage / SENSITIVITY_FILE)
            found.plan.save(stage / PLAN_FILE)
            save_weights(found.rounded.weights, stage / WEIGHTS_FILE)
            report.save(stage / REPORT_FILE)
            write_report(report, stage / PAGE_FILE, found.sensitivities, OUTPUT_FILES)
            write_atomic(stage / RECIPE_FILE, recipe.to_toml().encode())
    say(f"wrote {', '.join(OUTPUT_FILES)} to {folder}")
    return report


def _taken(folder: Path, say: Callable[[str], None]) -> Report:
    say(f"done already: {folder} holds the result of this recipe; nothing was written (--force does all of it again)")
    return Report.load(folder / REPORT_FILE)


def _is_done(earlier: Earlier, recipe: Recipe, now: Inputs) -> bool:
    return earlier.complete and not earlier.inputs.changes(now) and not earlier.measured_otherwise(recipe)


def _why(earlier: Earlier, recipe: Recipe) -> str:
    """Say why a result of the same recipe is not used as it is."""
    other = earlier.measured_otherwise(recipe)
    if not earlier.complete:
        return "files of it are missing"
    return f"measured with other options ({'; '.join(other)})" if other else "every step is done again (--force)"
