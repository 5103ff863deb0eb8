"""`doctor`: checks of the environment and of models before a long run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lampq_onnx.cli.names import complete_model
from lampq_onnx.cli.parameters import override, with_options
from lampq_onnx.config.options import DIGITS
from lampq_onnx.config.recipe import Recipe, Values
from lampq_onnx.disk.option import OUTPUT

if TYPE_CHECKING:
    from lampq_onnx.artifacts.finding import Finding


@with_options("model", "--task", "--validation", "--mean", "--std", "--crop")
def doctor(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODELS",
            help="Models to check, see quantize; none: only the environment.",
            show_default=False,
            autocompletion=complete_model,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to check for free space.", rich_help_panel=OUTPUT)
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    values: Values,
) -> None:
    """Check the environment, and that the export and the preprocessing of a model keep its accuracy.

    Exits with 1 if something has to be fixed before a run.
    """
    import json

    from lampq_onnx.cli.tables import print_findings
    from lampq_onnx.errors import GateError
    from lampq_onnx.workflow.doctor import examine_environment

    recipes = [Recipe.build(override(values, "model", name=name)) for name in models or ()]
    groups: dict[str, list[Finding]] = {"environment": list(examine_environment(output))}
    for recipe in recipes:
        groups[recipe.model.name] = list(_examine(recipe))
    if as_json:
        typer.echo(json.dumps({name: [asdict(f) for f in found] for name, found in groups.items()}, indent=2))
    else:
        print_findings(groups)
    failed = [f.name for found in groups.values() for f in found if f.status == "failure"]
    if failed:
        raise GateError(f"fix these first: {', '.join(failed)}")


def _examine(recipe: Recipe) -> Iterator[Finding]:
    from lampq_onnx.evaluation.tasks.meters import open_validation
    from lampq_onnx.frontend.checkup import examine_model
    from lampq_onnx.frontend.opening import digits_source, load_model

    loaded = load_model(recipe.model, recipe.images)
    source = None
    if recipe.images.validation is not None:
        source = open_validation(recipe.images.validation, loaded.task, loaded.identity.num_classes)
    elif recipe.model.name == DIGITS:
        source = digits_source("test")
    yield from examine_model(loaded, source)
