"""The Python API: the command line's stages as functions with plain arguments.

>>> import lampq_onnx
>>> lampq_onnx.quantize  # doctest: +ELLIPSIS
<function quantize at 0x...>
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.options import (
    AnalysisOptions,
    EffortName,
    ImageOptions,
    ModelOptions,
    OutputOptions,
    RoundingOptions,
    calibration_of,
)
from lampq_onnx.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.recipe import Recipe, by_name, read_values

if TYPE_CHECKING:
    from lampq_onnx.converter.inspect import QuantizedLayer


def quantize(
    model: str,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    calibration: str | Path | None = None,
    validation: str | Path | None = None,
    bits: float | None = None,
    activation_bits: int | Literal["mixed", "same"] | None = None,
    effort: EffortName | None = None,
    recipe: Recipe | str | Path | None = None,
    progress: ProgressSink = NO_PROGRESS,
    **options: Any,
) -> Report:
    """Analyze, allocate, convert and check a model; the files go to the folder ``output``.

    Args:
        model: timm name, or ``digits``.
        calibration: images, or ``synthetic`` or ``noise``: made from the model alone.
        bits: average weight bits of the budget.
        activation_bits: of every input; mixed: each its own, ``activation_budget`` on average; same: those of the
            unit's weights.
        effort: how long costs are measured and rounding is refined.
        recipe: what the arguments override: a recipe, or the path of one.
        options: any other option of the command line, by its name there with underscores.

    Raises:
        UsageError, LampqError: see `pipeline.quantize`; also an unknown option.
    """
    from lampq_onnx import pipeline

    base = recipe.values() if isinstance(recipe, Recipe) else read_values(Path(recipe)) if recipe else {}
    given = {
        "model": model, "checkpoint": checkpoint, "model_args": model_args, "calibration": calibration,
        "validation": validation, "bits": bits, "activation_bits": activation_bits, "effort": effort, **options,
    }  # fmt: skip
    built = Recipe.build(base, by_name(given))
    return pipeline.quantize(built, Path(output), progress=progress)


def analyze(
    model: str,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    calibration: str | Path | None = None,
    calibration_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    options: AnalysisOptions | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> Sensitivities:
    """Measure the sensitivities of every unit; see `pipeline.analyze`."""
    from lampq_onnx import pipeline

    return pipeline.analyze(
        _model(model, checkpoint, pretrained, model_args, device),
        ImageOptions(calibration=calibration_of(calibration), calibration_size=calibration_size, seed=seed),
        options or AnalysisOptions(),
        RoundingOptions(),
        progress=progress,
    )


def allocate(sensitivities: Sensitivities, *, bits: float = 4.0, **options: Any) -> BitPlan:
    """Give out bits under a budget; ``options`` are those of `lampq_onnx.allocation.allocate`."""
    from lampq_onnx.allocation import allocate as solve

    return solve(sensitivities, bits=bits, **options)[0]


def convert(
    float_model: str | Path,
    plan: BitPlan,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    calibration: str | Path | None = None,
    form: OutputOptions | None = None,
) -> None:
    """Write the quantized file of a plan; see `pipeline.convert`."""
    from lampq_onnx import pipeline

    images = ImageOptions(calibration=calibration_of(calibration))
    pipeline.convert(Path(float_model), plan, Path(output), form or OutputOptions(), images, _path(weights))


def validate(
    model: str | Path,
    reference: str | Path,
    validation: str | Path,
    *,
    form: OutputOptions | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> Report:
    """Check a quantized file against its float file; see `pipeline.validate`."""
    from lampq_onnx import pipeline

    images = ImageOptions(validation=Path(validation))
    return pipeline.validate(Path(model), Path(reference), images, form or OutputOptions(), progress=progress)


def inspect(model: str | Path) -> list[QuantizedLayer]:
    """Quantized layers of a file."""
    from lampq_onnx.converter import inspect_model, load_model

    return inspect_model(load_model(Path(model)))


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _model(
    name: str,
    checkpoint: str | Path | None,
    pretrained: bool,
    model_args: Mapping[str, Any] | None,
    device: str,
) -> ModelOptions:
    return ModelOptions(
        name=name,
        checkpoint=_path(checkpoint),
        pretrained=pretrained,
        model_args=dict(model_args or {}),
        device=device,
    )
