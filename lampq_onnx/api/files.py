"""Functions that take what earlier ones wrote, and the examination of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from lampq_onnx.api.arguments import Images, objects_of, place_of, values_of
from lampq_onnx.artifacts import BitPlan, LatencyTable, Report, Sensitivities
from lampq_onnx.artifacts.finding import Finding
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.keywords import AllocateKeywords, ConvertKeywords, DoctorKeywords, ValidateKeywords
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.values import by_name, merge, options_of
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

if TYPE_CHECKING:
    from lampq_onnx.converter import Conversion
    from lampq_onnx.workflow.reproduce import Reproduction


def allocate(
    sensitivities: Sensitivities,
    *,
    bits: float | None = None,
    latency: LatencyTable | str | Path | None = None,
    target: str = "auto",
    float_model: str | Path | None = None,
    **options: Unpack[AllocateKeywords],
) -> BitPlan:
    """Give out bits under one or several budgets.

    Args:
        sensitivities: what `analyze` measured.
        bits: average weight bits; None: 4, or no limit if there is another budget.
        latency: what `probe` measured; needed for ``max_latency``.
        target: where the file is meant to run; auto: the target of ``latency``, or this machine.
        float_model: the float file, for its size, if the sensitivities lack it.
        options: other budgets, as on the command line (``max_size="4MB"``, ``max_latency="20ms"``), and those of the
            method.

    Returns:
        a width for every layer.

    Raises:
        UsageError: an option out of range, or what a budget needs is not given.
        LampqError: the budgets cannot be met; says which, and what could be.
    """
    from lampq_onnx.workflow.allocating import allocate as solve

    table = latency if isinstance(latency, LatencyTable) else None
    place = None if isinstance(latency, LatencyTable) else latency
    values = values_of("allocate", dict(options), bits=bits, latency=place, target=target)
    size_of = None if float_model is None else Path(float_model)
    return solve(sensitivities, values, table=table, float_model=size_of)[0]


def convert(
    float_model: str | Path,
    plan: BitPlan,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    calibration: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[ConvertKeywords],
) -> Conversion:
    """Write the quantized file of a plan.

    Args:
        float_model: the float file that the plan was made for.
        plan: widths and input ranges.
        output: the file to write.
        weights: a weights.safetensors with rounding that `quantize` found; None: to nearest.
        calibration: images for ranges that the plan lacks.
        overwrite: replace ``output`` if it exists.
        progress: told of stages.
        options: packing, target, form of attention and threads; how many images are chosen, and what they go through.

    Returns:
        the graph, and what was changed in it and what was not.

    Raises:
        UsageError: an unknown option, a value that it cannot have, or ``output`` exists.
        LampqError: the plan or the weights do not fit the file, or ranges are missing.
    """
    from lampq_onnx.workflow.convert_files import convert as run

    values = values_of("convert", dict(options), calibration=calibration)
    return run(
        Path(float_model),
        plan,
        Path(output),
        options_of(OutputOptions, values),
        options_of(ImageOptions, values),
        None if weights is None else Path(weights),
        overwrite=overwrite,
        progress=progress,
    )


def validate(
    model: str | Path,
    reference: str | Path | None = None,
    validation: Images | None = None,
    *,
    max_drop: float | None = None,
    gate_agreement: float | None = None,
    min_agreement: float | None = None,
    output: str | Path | None = None,
    junit: str | Path | None = None,
    summary: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
    **options: Unpack[ValidateKeywords],
) -> Report | None:
    """Check a quantized file against its float file.

    A failing gate raises nothing: ask `gates_of` with the report, or have `require_gates` raise `GateError`.

    Args:
        model: the quantized file.
        reference: the float file that it was made from; None: float.onnx in the same folder.
        validation: images with labels: a path, a data set, or batches.
        max_drop: gate: largest drop of the task's score, in points.
        gate_agreement: gate: smallest measured fraction of images on which both files agree.
        min_agreement: another name of ``gate_agreement``, as on the command line.
        output: also write the report, and its page beside it.
        junit: also write the gates as JUnit XML.
        summary: also write the gates as Markdown.
        overwrite: replace files that exist.
        progress: told of stages.
        options: threads; how latency is measured; what the images go through, if not what the float file says.

    Returns:
        what was measured; None in processes of torchrun that only help.

    Raises:
        UsageError: an unknown option, a value that it cannot have, or no images or float file are named.
        LampqError: a file cannot be read, the two do not belong together, or the images do not fit.
    """
    from lampq_onnx.evaluation.gates import gate_limits
    from lampq_onnx.workflow.reporting import CheckFiles
    from lampq_onnx.workflow.reporting import validate as check

    values = values_of("validate", dict(options), validation=place_of(validation))
    report, tests, text = (None if path is None else Path(path) for path in (output, junit, summary))
    return check(
        Path(model),
        None if reference is None else Path(reference),
        options_of(ImageOptions, values),
        options_of(OutputOptions, values),
        gate_limits(max_drop, min_agreement if gate_agreement is None else gate_agreement),
        files=CheckFiles(report=report, junit=tests, summary=text),
        given=objects_of(validation),
        overwrite=overwrite,
        progress=progress,
    )


def reproduce(
    model: str | Path,
    *,
    source: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    calibration: str | Path | None = None,
    device: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
) -> Reproduction:
    """Make a quantized file again from the recipe in it, and compare the two bit for bit.

    Args:
        model: a model.onnx that `quantize` wrote.
        source: the float model, if it is a file that lies elsewhere now.
        checkpoint: the weights, if they lie elsewhere now.
        checkpoint_key: the part of the checkpoint that is meant.
        calibration: the calibration images, if they lie elsewhere now.
        device: torch device of the front end.
        output: where to keep the new file; None: nowhere.
        overwrite: replace ``output`` if it exists.
        progress: told of stages.

    Returns:
        the sha256 of the new file, and versions of software that changed and made no difference.

    Raises:
        UsageError: a value that an option cannot have, or ``output`` exists.
        LampqError: the file does not say how it was made, model or images are others, or the new file differs.
    """
    from lampq_onnx.workflow.reproduce import reproduce as again

    name = None if source is None else str(source)
    places = {"model": name, "checkpoint": checkpoint, "checkpoint_key": checkpoint_key, "device": device}
    values = by_name({**places, "calibration": calibration})
    kept = None if output is None else Path(output)
    return again(Path(model), values, kept, overwrite=overwrite, progress=progress)


def doctor(
    *models: str | Path,
    validation: str | Path | None = None,
    output: str | Path = ".",
    **options: Unpack[DoctorKeywords],
) -> dict[str, tuple[Finding, ...]]:
    """Check the environment, and that export and preprocessing reproduce the accuracy of models.

    Args:
        models: names or files, see `quantize`; none: the environment alone.
        validation: images with labels.
        output: folder that files would go to.
        options: where the weights of the models are, and what the images go through.

    Returns:
        ``environment`` or the name of a model -> what was found; nothing is raised for findings that are failures.

    Raises:
        UsageError: an unknown option, or a value that it cannot have.
        LampqError: a model or its images cannot be read.
    """
    from lampq_onnx.workflow.doctor import examine

    values = values_of("doctor", dict(options), validation=validation)
    recipes = [Recipe.build(merge(values, {"model": {"name": str(model)}})) for model in models]
    return examine(recipes, Path(output))
