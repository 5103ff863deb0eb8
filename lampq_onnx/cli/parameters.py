"""Options of the command line, made from the fields of the options' models."""

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
from rich.markup import escape

from lampq_onnx.cli.names import complete_device, complete_key, completion_of
from lampq_onnx.config.doors import checked
from lampq_onnx.config.fields import Field, text_of
from lampq_onnx.config.lookup import by_flag
from lampq_onnx.config.plain_values import parse_plain
from lampq_onnx.config.sections import FIELDS, SECTIONS, Values
from lampq_onnx.config.set_words import set_values
from lampq_onnx.config.values import merge, read_values
from lampq_onnx.disk.option import PANELS
from lampq_onnx.disk.wording import explain, limits_of
from lampq_onnx.errors import LampqError, UsageError

Number = TypeVar("Number", int, float)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist already.")]
"""The option of every command that writes files: without it nothing is replaced."""

VALUES = "values"
"""Parameter of a command that gets the values of its options."""


def with_options(
    *names: str, without: tuple[str, ...] = (), shown: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of sections (``images``) and single ones (``--threads``), `--recipe` and `--set`.

    The command's parameter ``values`` gets what the recipe sets, overridden by `--set`, overridden by the options
    themselves; options that none of them sets are not in it. Options that are named singly are shown by `--help`; those
    of whole sections if their level is basic.

    Args:
        without: options of the sections that the command does not have.
        shown: option -> default in the help text, where it is not the field's.
    """
    chosen = [field for field in _chosen(names) if field.dashed not in without and field.flag != "model"]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != VALUES]
        made = [
            _parameter(
                field, (shown or {}).get(field.dashed), hidden=field.level == "all" and field.dashed not in names
            )
            for field in chosen
        ]

        @wraps(command)
        def run(recipe: Path | None, set_: list[str] | None, **given: Any) -> None:
            typed: dict[str, dict[str, object]] = {}
            for field in chosen:
                value = given.pop(field.flag)
                if value is not None:
                    parsed = arguments_of(value) if isinstance(field.default, dict) else value
                    taken = checked(SECTIONS[field.section], field, parsed, field.dashed)
                    typed.setdefault(field.section, {})[field.name] = taken
            command(**given, **{VALUES: merge(read_values(recipe) if recipe else {}, set_values(set_ or []), typed)})

        parameters = sorted([*own, _RECIPE, _SET, *made], key=_place)
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        )
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def number_of(name: str, text: str, kind: type[Number], *, ge: float | None = None, le: float | None = None) -> Number:
    """Read a number from the command line, for options that are in no recipe.

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
    """Run the only command of a script; an error of this package ends in its message and exit code."""
    try:
        typer.run(main)
    except LampqError as problem:
        typer.echo(f"error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None


def override(values: Values, section: str, **given: object) -> dict[str, dict[str, object]]:
    """Replace some values of a section; those that are None stay as they are."""
    return merge(values, {section: {key: value for key, value in given.items() if value is not None}})


def arguments_of(words: list[str]) -> dict[str, Any]:
    """Read words such as ``depth=4`` as a table; see `parse_plain` for the values.

    Raises:
        UsageError: no equals sign, or a value that cannot be read.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--model-arg takes key=value, not {word!r}", hint="such as --model-arg img_size=224")
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
        typer.Option(
            "--recipe",
            metavar="PATH",
            help="TOML file with options (`lampq-onnx init` writes one); the command line overrides it.",
            show_default=False,
        ),
    ],
)

_SET = inspect.Parameter(
    "set_",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any option of a recipe, e.g. allocation.gamma=4. Repeat the option for several; it overrides "
            "--recipe.",
            show_default=False,
            autocompletion=complete_key,
        ),
    ],
)

_ORDER = ("", *PANELS)
"""Panels of a help page in their order; options without one come first."""


def _place(parameter: inspect.Parameter) -> int:
    (declared,) = getattr(parameter.annotation, "__metadata__", (None,))
    panel = getattr(declared, "rich_help_panel", None) or ""
    return _ORDER.index(panel) if panel in _ORDER else 0


def _chosen(names: tuple[str, ...]) -> Iterator[Field]:
    """The fields that ``names`` mean; for a field that follows another one, that one."""
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


_METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT", list: "TEXT"}


def _parameter(field: Field, shown: str | None, *, hidden: bool) -> inspect.Parameter:
    default = shown if shown is not None else "" if field.default in (None, (), {}) else text_of(field.default)
    if field.default is True:
        default += f"; --no-{field.dashed[2:]} turns it off"
    # Words are read by the option itself, which says what is wrong with them as recipes and Python do.
    kind: Any = list[str] if field.kind is list else bool if field.kind is bool else str
    words = (field.dashed, f"--no-{field.dashed[2:]}") if kind is bool else (field.dashed,)
    named = bool(field.names or field.words)
    text = escape(field.text)
    option = typer.Option(
        "/".join(words),
        help=f"{text} [dim](default {escape(default)})[/]" if default else text,
        rich_help_panel=field.panel,
        show_default=False,
        metavar=_metavar(field),
        hidden=hidden,
        autocompletion=completion_of(lambda: field.choices) if named else _COMPLETIONS.get(field.flag),
    )
    return inspect.Parameter(
        field.flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


_COMPLETIONS = {"device": complete_device}


def _metavar(field: Field) -> str | None:
    if field.kind is bool:
        return None
    if isinstance(field.default, dict):
        return "KEY=VALUE"
    return "NAME" if field.names else _METAVARS[field.kind]
