"""`init`, `reproduce` and `cache`: recipes, and results that are kept between runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.names import complete_model
from lampq_onnx.cli.parameters import Overwrite, override, with_options
from lampq_onnx.config.recipe import Recipe, template
from lampq_onnx.config.sections import FIELDS, SECTIONS, Values
from lampq_onnx.disk.option import OUTPUT


@with_options("--checkpoint", "--pretrained", "--calibration", "--validation", "--bits")
def init(
    *,
    output: Annotated[Path, typer.Argument(help="The file to write.")] = Path("recipe.toml"),
    model: Annotated[
        str | None,
        typer.Option(
            help="The model: a timm name, an .onnx file, a folder of transformers, or digits.",
            metavar="NAME",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "--force", help="Replace a file that exists already.")
    ] = False,
    values: Values,
) -> None:
    """Write a recipe: a TOML file with every option, its default and what it does.

    On a terminal, it asks for the model, its weights and the images that are not given as options.
    """
    from lampq_onnx.cli.questions import asked_values
    from lampq_onnx.config.doors import checked
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.disk.files import write_atomic
    from lampq_onnx.workflow.requests import missing_images

    require_new_files((output,), overwrite=overwrite)
    name, given = asked_values(model, values)
    (field,) = (field for field in FIELDS if field.flag == "model")
    checked(SECTIONS["model"], field, name, "--model")
    write_atomic(output, template(name, given).encode())
    typer.echo(f"wrote {output}")
    for what, hint in missing_images(Recipe.build({"model": {"name": name}}, given)).items():
        typer.echo(f"before it runs, it needs {what}: {hint}, or fill them in under [images]")
    typer.echo(f"check it with: lampq-onnx doctor --recipe {output}")
    typer.echo(f"run it with: lampq-onnx quantize --recipe {output} --output out")


@with_options("--checkpoint", "--checkpoint-key", "--calibration", "--device")
def reproduce(
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.onnx that quantize wrote.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="PATH", help="The float model, if it is a file that has moved.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Keep the new file under this name. Default: it is only compared.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Make a quantized file again from the recipe inside it, and compare the two bit for bit.

    Weights and images are read from where the options say, else from where the recipe.toml beside the file says; they
    have to be the same. Exits with 1 if the new file differs.
    """
    from lampq_onnx.cli.voice import Voice
    from lampq_onnx.workflow.reproduce import reproduce as again

    with Voice().progress() as progress:
        found = again(model, override(values, "model", name=source), output, overwrite=overwrite, progress=progress)
    if found.changes:
        typer.echo(
            f"{model} was made again: the same graph and weights. Changed since then: {'; '.join(found.changes)}"
        )
    else:
        typer.echo(f"{model} was made again, bit for bit: sha256 {found.sha256}")


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
) -> None:
    """Show the results that are kept between runs, or remove them."""
    from lampq_onnx.disk.cache import ArrayCache

    kept = ArrayCache.of_user()
    if kept.folder is None:
        typer.echo("there is no cache folder")
        return
    if clear:
        typer.echo(f"{kept.folder}: {kept.clear() / 1e6:.1f} MB removed")
        return
    entries = kept.entries()
    total = sum(entry.bytes for entry in entries)
    typer.echo(f"{kept.folder}: {len(entries)} results, {total / 1e6:.1f} MB")
    if entries:
        first, last = (time.strftime("%Y-%m-%d %H:%M", time.localtime(e.written)) for e in (entries[0], entries[-1]))
        typer.echo(f"written from {first} to {last}; remove them with: lampq-onnx cache --clear")
