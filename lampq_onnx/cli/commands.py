"""`quantize` and `analyze`: the commands that need PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.interrupt import kept_after_interrupt
from lampq_onnx.cli.names import complete_model
from lampq_onnx.cli.parameters import Overwrite, override, with_options
from lampq_onnx.cli.voice import AsJson, Quiet, Verbose, Voice
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import SECTIONS, Values
from lampq_onnx.disk.option import OUTPUT

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A timm model name, a float .onnx file, a folder of a transformers model, or [bold]digits[/], the "
        "embedded model that needs no other option. `lampq-onnx list models` prints timm's names.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
"""The model, which a recipe may name instead."""


@with_options(*SECTIONS)
def quantize(
    *,
    model: Model = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write the files to, e.g. out.", rich_help_panel=OUTPUT, show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show which layers would be quantized, and why the others stay in float."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", hidden=True, help="Do every step again, also those that an earlier run has finished."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the result of another recipe in the folder. Packages made from it are removed, other files "
            "are marked (.stale).",
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    values: Values,
) -> None:
    """Quantize a model and check the file: accuracy, size and latency.

    Writes model.onnx, report.html, report.json, recipe.toml, plan.json, sensitivity.json, weights.safetensors and
    float.onnx into one folder. A run that was stopped goes on where it was; a finished one is not repeated. The result
    of another recipe is only replaced with --overwrite.

    Example: lampq-onnx quantize deit_tiny_patch16_224 --checkpoint deit.safetensors --calibration images --validation
    labelled --bits 4 --output out
    """
    from lampq_onnx.cli.example import embedded_example, example_wanted
    from lampq_onnx.errors import UsageError
    from lampq_onnx.evaluation.gates import require_gates

    voice = Voice(verbose, quiet, as_json)
    if output is None and not dry_run and example_wanted(model, values):
        model, output, values = embedded_example(values)
    from lampq_onnx.cli.recognition import print_recognition
    from lampq_onnx.cli.result import print_result, result_values
    from lampq_onnx.cli.tables import print_report_layers, print_summary
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.workflow.expected import run_name
    from lampq_onnx.workflow.forecasts import quantize_forecast
    from lampq_onnx.workflow.quantize import quantize as run
    from lampq_onnx.workflow.quantize import recognize
    from lampq_onnx.workflow.requests import missing_images

    recipe = Recipe.build(override(values, "model", name=model))
    if dry_run:
        print_recognition(recognize(recipe, output, overwrite=overwrite))
        for what, hint in missing_images(recipe).items():
            typer.echo(f"the run will need {what}: {hint}")
        return
    if output is None:
        raise UsageError("quantize needs a folder for its files", hint="give it with --output FOLDER")
    said: list[str] = []
    with kept_after_interrupt(), voice.progress(quantize_forecast(recipe), run_name("quantize", recipe)) as progress:
        report = run(
            recipe,
            output,
            progress=progress,
            cache=ArrayCache.of_user(),
            force=force,
            overwrite=overwrite,
            say=said.append,
        )
    if verbose:
        print_report_layers(report)
        print_summary(report)
    voice.print(lambda: result_values(report, output, said), lambda: print_result(report, output, said))
    require_gates(report)


@with_options(
    "model", "images", "--effort", "analysis", "rounding", "--activation-bits", "--granularity", "--bits", "--threads",
    without=("--validation", "--training-threads"),
)  # fmt: skip
def analyze(
    *,
    model: Model = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", rich_help_panel=OUTPUT)] = Path(
        "sensitivity.json"
    ),
    float_output: Annotated[
        Path | None,
        typer.Option(
            "--float",
            help="Also write the float ONNX file that the sensitivities belong to, for probe and convert.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    values: Values,
) -> None:
    """Measure how sensitive each layer is, and write sensitivity.json."""
    from lampq_onnx.cli.tables import print_sensitivities
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.running.processes import writes_files
    from lampq_onnx.workflow.analyze import analyze as run
    from lampq_onnx.workflow.expected import run_name
    from lampq_onnx.workflow.forecasts import analyze_forecast

    voice = Voice(verbose, quiet, as_json)

    require_new_files((output, float_output), overwrite=overwrite)
    recipe = Recipe.build(override(values, "model", name=model))
    with voice.progress(analyze_forecast(recipe), run_name("analyze", recipe)) as progress:
        sensitivities = run(recipe, float_output=float_output, overwrite=overwrite, progress=progress)
    if not writes_files():
        return
    sensitivities.save(output)
    voice.print(
        lambda: sensitivities.model_dump(mode="json", by_alias=True), lambda: print_sensitivities(sensitivities, output)
    )
