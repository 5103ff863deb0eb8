"""`quantize` and `analyze`: the commands that need the PyTorch front end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite, override, with_options
from lampq_onnx.config.recipe import SECTIONS, Recipe, Values
from lampq_onnx.disk.option import OUTPUT

Model = Annotated[
    str | None,
    typer.Argument(
        help="A timm model name, a float .onnx file, or [bold]digits[/], the default that needs no other option."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("quantize")(quantize)
    app.command("analyze")(analyze)


@with_options(*SECTIONS)
def quantize(
    *,
    model: Model = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files.", rich_help_panel=OUTPUT, show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print which layers are quantized, and why the others are not.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Do every step again, even where an earlier run has finished it.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace another recipe's result; packages made from it are removed, other files marked (.stale).",
        ),
    ] = False,
    values: Values,
) -> None:
    """Analyze, allocate, convert and check: the whole line in one go.

    Writes float.onnx, sensitivity.json, plan.json, weights.safetensors, model.onnx, report.json, report.html and
    recipe.toml.
    A run that was stopped goes on where it was, and one that is finished is not done again. A folder with the result of
    another recipe is refused without --overwrite.
    """
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.recognition import print_recognition
    from lampq_onnx.cli.tables import print_report
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.errors import UsageError
    from lampq_onnx.evaluation.gates import require_gates
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
    report = run(
        recipe,
        output,
        progress=terminal_progress(),
        cache=ArrayCache.of_user(),
        force=force,
        overwrite=overwrite,
        say=said.append,
    )
    print_report(report)
    for line in said:
        typer.echo(line)
    require_gates(report)


@with_options("model", "images", "analysis", "rounding", "--threads", without=("--validation",))
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
            help="Also write the float graph that the sensitivities belong to, for convert.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Measure the sensitivities of every unit and write sensitivity.json."""
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.tables import print_sensitivities
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.running.processes import writes_files
    from lampq_onnx.workflow.analyze import analyze as run

    require_new_files((output, float_output), overwrite=overwrite)
    recipe = Recipe.build(override(values, "model", name=model))
    sensitivities = run(
        recipe,
        float_output=float_output,
        overwrite=overwrite,
        progress=terminal_progress(),
    )
    if not writes_files():
        return
    sensitivities.save(output)
    print_sensitivities(sensitivities, output)
