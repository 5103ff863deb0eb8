"""`analyze`: the sensitivities of a model, and the float graph that they belong to."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.artifacts import Sensitivities
from lampq_onnx.config.options import UpdateOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import staging
from lampq_onnx.frontend.shared.distributed import process_group
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.running.processes import writes_files
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.runtime.environment import own_cores, target_here
from lampq_onnx.workflow.inputs import Given
from lampq_onnx.workflow.opened import opened_run
from lampq_onnx.workflow.requests import recipe_for
from lampq_onnx.workflow.search import measure, simulated


def analyze(
    recipe: Recipe,
    *,
    float_output: Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    given: Given | None = None,
) -> Sensitivities:
    """Measure the sensitivities of every layer of a model.

    Processes that torchrun starts share the images of ranges, traces, norms and input moments, and do the rest alike.

    Args:
        recipe: what it says of model, images, analysis and rounding counts, and its threads.
        float_output: where to write the float graph that they belong to (equalized, if the recipe says so).
        overwrite: replace ``float_output`` where it exists.
        progress: told of stages.
        given: Python objects that stand for the model or the images.

    Raises:
        LampqError: the model or its calibration images cannot be used.
    """
    require_new_files((float_output,), overwrite=overwrite)
    recipe = recipe.model_copy(update={"update": UpdateOptions()})  # there is none, which might look at labels
    recipe = recipe_for(recipe, target_here(recipe.output.target_name))
    clock = Clock(progress if writes_files() else NO_PROGRESS)
    with (
        process_group(recipe.model.device) as group,
        torch_threads(recipe.output.threads or own_cores()),
        opened_run(recipe, clock, given, images="calibration", group=group) as opened,
    ):
        frontend, crops = opened.calibrated()
        sensitivities = measure(frontend, crops, recipe.analysis, recipe.rounding, seed=recipe.images.seed, clock=clock)
        if float_output is not None and group.rank == 0:
            with staging(float_output.parent, (float_output.name,)) as stage:
                save_model(frontend.model, stage / float_output.name)
        if recipe.analysis.simulate:
            return simulated(frontend, crops, sensitivities, recipe.allocation, clock)
        return sensitivities
