"""Command line options made from the fields of the options' models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

import pydantic
import typer
from pydantic import ValidationError, create_model

from lampq_onnx.config.doors import checked
from lampq_onnx.config.fields import Field, text_of
from lampq_onnx.config.plain_values import parse_plain
from lampq_onnx.config.recipe import FIELDS, SECTIONS, Values, by_flag, merge, read_values
from lampq_onnx.disk.wording import explain, limits_of
from lampq_onnx.errors import LampqError, UsageError

Number = TypeVar("Number", int, float)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists already.")]
"""Every command that writes has it: without it nothing is replaced."""

VALUES = "values"
"""Parameter of a command that takes what was given."""


def with_options(
    *names: str, without: tuple[str, ...] = (), shown: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of sections (``images``) and single ones (``--threads``), and ``--recipe``.

    The command's parameter ``values`` gets what the recipe sets, overridden by what the command line sets; options that
    neither of them sets are not in it.

    Args:
        without: options of the sections that the command does not have.
        shown: option -> default in the help text, where it is not the field's.
    """
    chosen = [field for field in _chosen(names) if field.dashed not in without and field.flag != "model"]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != VALUES]
        made = [_parameter(field, (shown or {}).get(field.dashed)) for field in chosen]

        @wraps(command)
        def run(recipe: Path | None, **given: Any) -> None:
            typed: dict[str, dict[str, Any]] = {}
            for field in chosen:
                value = given.pop(field.flag)
                if value is not None:
                    parsed = arguments_of(value) if isinstance(field.default, dict) else value
                    taken = checked(SECTIONS[field.section], field, parsed, field.dashed)
                    typed.setdefault(field.section, {})[field.name] = taken
            command(**given, **{VALUES: merge(read_values(recipe) if recipe else {}, typed)})

        parameters = [*own, _RECIPE, *made]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        )
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def number_of(name: str, text: str, kind: type[Number], *, ge: float | None = None, le: float | None = None) -> Number:
    """The number that a word of the command line is, for options that are in no recipe.

    Args:
        name: of the option, as it is typed.
        ge, le: bounds, themselves allowed.

    Raises:
        UsageError: no such number, or one outside the bounds.
    """
    field: Any = pydantic.Field(ge=ge, le=le, allow_inf_nan=False)
    word = create_model("Word", value=(kind, field))
    try:
        found: Number = word.model_validate({"value": text}).value  # type: ignore[attr-defined]
        return found
    except ValidationError as error:
        said = explain(error.errors(include_url=False), limits_of([SimpleNamespace(ge=ge, le=le)]))
        raise UsageError(f"{name}: {said}") from error


def run_tool(main: Callable[..., None]) -> None:
    """Run a script's only command; an error of ours ends in its message and exit code."""
    try:
        typer.run(main)
    except LampqError as problem:
        typer.echo(f"error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None


def override(values: Values, section: str, **given: Any) -> dict[str, dict[str, Any]]:
    """``values`` with some of a section's replaced, where they are not None."""
    return merge(values, {section: {key: value for key, value in given.items() if value is not None}})


def arguments_of(words: list[str]) -> dict[str, Any]:
    """The table of key=value words; see `parse_plain` for the values.

    Raises:
        UsageError: no equals sign, or a value that cannot be read.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--model-arg takes key=value, not {word!r}")
        try:
            arguments[key] = parse_plain(text)
        except ValueError as error:
            raise UsageError(f"--model-arg {key}: {error}") from error
    return arguments


_RECIPE = inspect.Parameter(
    "recipe",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(help="TOML file with options; those of the command line win.", show_default=False),
    ],
)


def _chosen(names: tuple[str, ...]) -> Iterator[Field]:
    """The fields meant by ``names``, with those that others have to equal."""
    seen = set()
    for name in names:
        wanted = (
            [by_flag(name.removeprefix("--").replace("-", "_"))]
            if name.startswith("--")
            else [field for field in FIELDS if field.section == name]
        )
        for field in wanted:
            same = field.same_as
            real = (
                field if same is None else next(f for f in FIELDS if f.section == same.section and f.name == same.field)
            )
            if real.flag not in seen:
                seen.add(real.flag)
                yield real


_METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def _parameter(field: Field, shown: str | None) -> inspect.Parameter:
    default = shown if shown is not None else "" if field.default in (None, (), {}) else text_of(field.default)
    # Words are read by the option itself, which says what is wrong with them as recipes and Python do.
    kind: Any = list[str] if field.kind is list else bool if field.kind is bool else str
    words = (field.dashed, f"--no-{field.dashed[2:]}") if kind is bool else (field.dashed,)
    option = typer.Option(
        "/".join(words),
        help=f"{field.help} [dim](default {default})[/]" if default else field.help,
        rich_help_panel=field.panel,
        show_default=False,
        metavar=_METAVARS.get(field.kind),
    )
    return inspect.Parameter(
        field.flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
