"""Functions that take a model: a name, a file, or a module of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from lampq_onnx.api.arguments import Images, Module, call_of
from lampq_onnx.api.showing import shown
from lampq_onnx.artifacts import Report, Sensitivities
from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.config.keywords import AnalyzeKeywords, QuantizeKeywords, SweepKeywords
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.data import Preprocessing
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

if TYPE_CHECKING:
    from lampq_onnx.graph.recognition import Recognition


def quantize(
    model: str | Path | Module,
    output: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    validation: Images | None = None,
    bits: float | None = None,
    latency: str | Path | None = None,
    baseline: Sequence[str] | None = None,
    recipe: Recipe | str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[QuantizeKeywords],
) -> Report:
    """Analyze, allocate, convert and check a model; the files go to the folder ``output``.

    Args:
        model: timm name, ``digits``, a float ONNX file, or a module; of a module a copy is taken.
        output: folder for float.onnx, sensitivity.json, plan.json, weights.safetensors, model.onnx, report.json,
            report.html and recipe.toml.
        preprocessing: for a module: what its images go through; None: what its timm configuration says.
        calibration: images, or ``synthetic`` or ``noise``: made from the model alone.
        validation: images with labels.
        bits: average weight bits of the budget; None: 4, or no limit if there is another budget.
        latency: latency.json of `probe`; needed for ``max_latency``.
        baseline: metrics whose plans are measured too, for comparison.
        recipe: what the arguments override: a recipe, or the path of one.
        resume: take the results of steps that an earlier run finished; a finished result of the same request is
            returned as it is.
        overwrite: replace the result of another request in ``output``; packages made from it are removed, and other
            files get the ending .stale.
        progress: told of stages; in a notebook, they are shown in one line if nothing is passed.
        options: any other option of the command line, by its name there with underscores.

    Returns:
        what the finished file was measured to be; a failing gate raises nothing, see `gates_of` and `require_gates`.

    Raises:
        UsageError: an unknown option, a value that it cannot have, or ``output`` holds another result.
        LampqError: the model, its images or the output folder cannot be used; nothing is written then.
    """
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.workflow.expected import run_name
    from lampq_onnx.workflow.forecasts import quantize_forecast
    from lampq_onnx.workflow.quantize import quantize as run

    base, values, given = call_of(
        "quantize", dict(options), model=model, preprocessing=preprocessing, calibration=calibration,
        validation=validation, recipe=recipe, bits=bits, latency=latency, baseline=baseline,
    )  # fmt: skip
    asked = Recipe.build(base, values)
    with shown(progress, lambda: quantize_forecast(asked), run_name("quantize", asked)) as sink:
        return run(
            asked,
            Path(output),
            progress=sink,
            cache=ArrayCache.of_user() if resume else None,
            force=not resume,
            overwrite=overwrite,
            given=given,
        )


def recognize(
    model: str | Path | Module,
    output: str | Path | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    validation: Images | None = None,
    bits: float | None = None,
    latency: str | Path | None = None,
    baseline: Sequence[str] | None = None,
    recipe: Recipe | str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[QuantizeKeywords],
) -> Recognition:
    """Say what `quantize` would quantize and leave in float, or refuse; nothing is measured or written.

    Args:
        model: see `quantize`.
        output: folder that the result would go to; None: not known yet.
        preprocessing: see `quantize`.
        calibration: images; opened if given, and not needed.
        validation: images with labels; opened if given, and not needed.
        bits: average weight bits of the budget.
        latency: latency.json of `probe`.
        baseline: metrics whose plans would be measured too.
        recipe: what the arguments override: a recipe, or the path of one.
        overwrite: whether the result of another request in ``output`` may be replaced.
        progress: told of stages.
        options: see `quantize`.

    Returns:
        the layers that get a width, and what stays in float and why.

    Raises:
        UsageError: what `quantize` would refuse.
        LampqError: likewise.
    """
    from lampq_onnx.workflow.quantize import recognize as look

    base, values, given = call_of(
        "quantize", dict(options), model=model, preprocessing=preprocessing, calibration=calibration,
        validation=validation, recipe=recipe, bits=bits, latency=latency, baseline=baseline,
    )  # fmt: skip
    folder = None if output is None else Path(output)
    return look(Recipe.build(base, values), folder, overwrite=overwrite, given=given, progress=progress)


def sweep(
    model: str | Path | Module,
    output: str | Path,
    *,
    bits: str | Sequence[float] = "2.5..8",
    metrics: Sequence[str] | None = None,
    pick: str | None = None,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    validation: Images | None = None,
    recipe: Recipe | str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[SweepKeywords],
) -> Sweep:
    """Quantize a model to many budgets on one analysis, and compare them.

    Finished points are kept in ``output``: a stopped sweep goes on where it was.

    Args:
        model: see `quantize`.
        output: folder for the points, sweep.json, sweep.csv and sweep.html.
        bits: average weight bits, or text: ``2.5..8`` (steps of 0.5), ``2..4:0.25`` or ``2.5,3,4``.
        metrics: metrics to compare; None: ``metric`` of the options, lampq and uniform.
        pick: also write the files of one point, e.g. ``"drop<=1, min size"``.
        preprocessing: see `quantize`.
        calibration: see `quantize`.
        validation: images with labels.
        recipe: what the arguments override: a recipe, or the path of one.
        resume: take the results of steps that earlier runs finished.
        overwrite: replace the sweep of another request in ``output``.
        progress: told of stages.
        options: those of `quantize` but for budgets.

    Returns:
        all points, those that no other one beats in size and KL both, and the picked one.

    Raises:
        UsageError: a budget, metric, pick or option that cannot be, or ``output`` holds another sweep or result.
        LampqError: the model or its images cannot be used, or no point can be picked; finished points stay.
    """
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.workflow.expected import run_name
    from lampq_onnx.workflow.forecasts import sweep_forecast
    from lampq_onnx.workflow.sweep.request import sweep_request
    from lampq_onnx.workflow.sweep.run import sweep as run

    base, values, given = call_of(
        "sweep", dict(options), model=model, preprocessing=preprocessing, calibration=calibration,
        validation=validation, recipe=recipe,
    )  # fmt: skip
    asked = sweep_request(base, values, bits=bits, metrics=metrics, pick=pick)
    name = run_name("sweep", asked.recipe)
    with shown(progress, lambda: sweep_forecast(asked.recipe, asked.bits, asked.metrics), name) as sink:
        return run(
            asked.recipe,
            asked.bits,
            asked.metrics,
            Path(output),
            pick=asked.pick,
            overwrite=overwrite,
            progress=sink,
            cache=ArrayCache.of_user() if resume else None,
            given=given,
        )


def analyze(
    model: str | Path | Module,
    *,
    preprocessing: Preprocessing | None = None,
    calibration: Images | None = None,
    bits: float | None = None,
    recipe: Recipe | str | Path | None = None,
    float_output: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[AnalyzeKeywords],
) -> Sensitivities:
    """Measure the sensitivities of every layer.

    Args:
        model: see `quantize`.
        preprocessing: see `quantize`.
        calibration: see `quantize`.
        bits: average weight bits that are expected; decides how far inputs are equalized.
        recipe: what the arguments override: a recipe, or the path of one.
        float_output: where to write the float graph that they belong to.
        overwrite: replace it if it exists.
        progress: told of stages.
        options: those of `quantize` that say how layers are measured.

    Returns:
        the input of `allocate`.

    Raises:
        UsageError: an unknown option, a value that it cannot have, or ``float_output`` exists.
        LampqError: the model or its images cannot be used.
    """
    from lampq_onnx.workflow.analyze import analyze as run

    base, values, given = call_of(
        "analyze", dict(options), model=model, preprocessing=preprocessing, calibration=calibration, recipe=recipe,
        bits=bits,
    )  # fmt: skip
    built = Recipe.build(base, values)
    return run(
        built,
        float_output=None if float_output is None else Path(float_output),
        overwrite=overwrite,
        progress=progress,
        given=given,
    )
