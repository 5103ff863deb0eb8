"""`doctor`: checks of the environment and of models before a long run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.names import complete_model
from lampq_onnx.cli.parameters import override, with_options
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.disk.option import OUTPUT
from lampq_onnx.errors import UsageError


@with_options("model", "--task", "--validation", "--input-size", "--mean", "--std", "--crop")
def doctor(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODELS",
            help="Models to check, see quantize; none, and no recipe: only the environment.",
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

    The model may be named here or in the recipe.

    Exits with 1 if something has to be fixed before a run.
    """
    import json

    from lampq_onnx.cli.tables import print_findings
    from lampq_onnx.workflow.doctor import examine, require_fit

    names = models or [name for name in (values.get("model", {}).get("name"),) if isinstance(name, str)]
    if not names and values:
        raise UsageError("no model is named to check", hint="name it behind `doctor`, or in the recipe")
    groups = examine([Recipe.build(override(values, "model", name=name)) for name in names], output)
    if as_json:
        typer.echo(json.dumps({name: [asdict(f) for f in found] for name, found in groups.items()}, indent=2))
    else:
        print_findings(groups)
    require_fit(groups)
