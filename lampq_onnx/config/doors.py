"""Checks of the values of options; messages name an option as the user has named it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from lampq_onnx.config.fields import Field
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.disk.wording import explain, limits_of
from lampq_onnx.errors import LampqError, UsageError

Named = Callable[[Field], str]
"""What the user calls an option: --bits, bits in [allocation], or bits."""


def checked(section: type[BaseModel], field: Field, value: object, name: str) -> Any:
    """Check a value, and give it the type of its option.

    Args:
        section: the class of options that the field belongs to.
        name: what the user calls the option.

    Raises:
        UsageError: the option cannot have the value; names the option, the value and what it may be.
    """
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{name}: the value is empty", hint="leave the option out, or give a value")
    if isinstance(value, str) and "\0" in value:
        raise UsageError(f"{name}: the value holds a null character")
    if isinstance(value, bytes | bytearray):
        raise UsageError(f"{name}: the value is bytes", hint="decode them, or give text")
    rest = {"name": DIGITS} if "name" in section.model_fields and field.name != "name" else {}
    try:
        return getattr(section.model_validate({**rest, field.name: value}), field.name)
    except ValidationError as error:
        raise UsageError(f"{name}: {explanation(section, field.name, error)}") from error
    except LampqError as error:  # raised by a reader, such as that of sizes, which pydantic lets pass
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from error


def whole_number(name: str, value: object, *, least: int, most: int) -> int:
    """A number that is in no recipe.

    Args:
        name: what the user calls it.
        value: what the user gave.
        least: smallest value allowed.
        most: largest value allowed.

    Raises:
        UsageError: it is no whole number, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: must be a whole number from {least} to {most}, not {value!r}")
    return value


def check_all(
    sections: Mapping[str, type[BaseModel]],
    fields: tuple[Field, ...],
    values: Mapping[str, Mapping[str, object]],
    named: Named,
) -> None:
    """Check every value that a user has written in sections; unknown keys are not looked at.

    Raises:
        UsageError: see `checked`.
    """
    for field in fields:
        own = values.get(field.section, {})
        if field.same_as is None and field.name in own:
            checked(sections[field.section], field, own[field.name], named(field))


def explanation(section: type[BaseModel], key: str, error: ValidationError) -> str:
    """What is wrong with the value of a field, and which values it takes."""
    problems = error.errors(include_url=False)
    own = [problem for problem in problems if problem["loc"][:1] == (key,)] or problems
    inside = _inside(own[0]["loc"][1:])
    text = explain(own, limits_of(section.model_fields[key].metadata))
    return f"{inside}: {text}" if inside else text


def _inside(place: tuple[int | str, ...]) -> str:
    """Where in a table or list the wrong value stands; pydantic adds the names of types, which say nothing."""
    first = place[0] if place else ""
    if isinstance(first, int):
        return f"number {first + 1}"
    return first if first.isidentifier() and first not in ("int", "float", "bool", "str", "path", "tuple") else ""
