"""`doctor`: the environment, and a model, before hours are spent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import override, with_options
from lampq_onnx.config.fields import OUTPUT
from lampq_onnx.config.recipe import Recipe, Values


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


@with_options("model", "--validation", "--mean", "--std", "--crop")
def doctor(
    *,
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to look at; none: the environment alone.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where files would go.", rich_help_panel=OUTPUT)
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    values: Values,
) -> None:
    """Check the environment, and that export and preprocessing reproduce a model's accuracy.

    Exits with 1 where something has to be mended first.
    """
    import json

    from lampq_onnx.cli.tables import print_findings
    from lampq_onnx.workflow.doctor import examine, require_fit

    groups = examine([Recipe.build(override(values, "model", name=name)) for name in models or ()], output)
    if as_json:
        typer.echo(json.dumps({name: [asdict(f) for f in found] for name, found in groups.items()}, indent=2))
    else:
        print_findings(groups)
    require_fit(groups)
