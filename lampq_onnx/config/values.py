"""Values of options: read from a recipe's text, sorted into sections, joined and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from lampq_onnx.config.doors import check_all, checked
from lampq_onnx.config.fields import Field
from lampq_onnx.config.lookup import by_flag, nearest
from lampq_onnx.config.sections import FIELDS, SECTIONS, Values
from lampq_onnx.disk.files import read_text
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError, UsageError

SIZE_LIMIT, LINE_LIMIT = 2**20, 4096
"""Bytes of a recipe, characters of a line."""

Options = TypeVar("Options", bound=Record)


def section(name: str, values: Values) -> Record:
    """Options of one section; a field that has to equal another one gets its value.

    Raises:
        UsageError: a value that an option cannot have, or an unknown key.
    """
    own = dict(values.get(name, {}))
    for field in FIELDS:
        if field.section == name and field.same_as is not None:
            if field.name in own:
                raise UsageError(
                    f"{name}.{field.name} cannot be set: it is always {field.same_as.section}.{field.same_as.field}"
                )
            own[field.name] = getattr(section(field.same_as.section, values), field.same_as.field)
    for field in FIELDS:
        if field.section == name and field.name in own and field.same_as is None:
            _require_no_truth_value(name, field, own[field.name])
            checked(SECTIONS[name], field, own[field.name], f"{field.dashed} ({field.name} in [{name}])")
    try:
        return SECTIONS[name].model_validate(own)
    except ValidationError as error:
        raise _explained(name, error) from error


def _require_no_truth_value(section_name: str, field: Field, value: object) -> None:
    """Refuse true and false where a number is meant: Python counts them as 1 and 0."""
    values = value if isinstance(value, list | tuple) else (value,)
    if SECTIONS[section_name].model_fields[field.name].annotation is bool:
        return
    wrong = next((item for item in values if isinstance(item, bool)), None)
    if wrong is not None:
        raise UsageError(
            f"{field.dashed} ({field.name} in [{section_name}]): must not be {str(wrong).lower()}",
            hint="write a number, or leave the option out",
        )


def options_of(kind: type[Options], values: Values) -> Options:
    """The options of one section, by their class; see `section`.

    Args:
        kind: class of the options, e.g. `OutputOptions`.
        values: section -> field -> value.

    Raises:
        UsageError: a value that an option cannot have, or an unknown key.
    """
    (name,) = (name for name, own in SECTIONS.items() if own is kind)
    found = section(name, values)
    assert isinstance(found, kind)
    return found


def merge(*layers: Values) -> dict[str, dict[str, object]]:
    """Join layers of values; the later one wins, key by key, also in tables within a section (model_args)."""
    merged: dict[str, dict[str, object]] = {}
    for layer in layers:
        for name, values in layer.items():
            own = merged.setdefault(name, {})
            for key, value in values.items():
                before = own.get(key)
                own[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def read_values(path: Path) -> dict[str, dict[str, object]]:
    """Read a recipe file; see `Values`.

    Raises:
        LampqError: unreadable or not TOML.
        UsageError: unknown tables or keys.
    """
    return parse_values(read_text(path, "the recipe", limit=SIZE_LIMIT), str(path))


def parse_values(text: str, where: str) -> dict[str, dict[str, object]]:
    """Read the text of a recipe; ``where`` names it in messages.

    Raises:
        LampqError: not TOML.
        UsageError: unknown tables or keys.
    """
    longest = max(map(len, text.splitlines()), default=0)
    if longest > LINE_LIMIT:
        # The reader's time grows with the square of a dotted key's length.
        raise LampqError(f"{where} has a line of {longest} characters, and {LINE_LIMIT} is the limit")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as are too long integers
        raise LampqError(f"{where} is not valid TOML: {error}") from error
    for name, values in data.items():
        if name not in SECTIONS:
            raise _unknown(f"{where}: unknown {'table' if isinstance(values, dict) else 'key'} {name!r}", name, ())
        if not isinstance(values, dict):
            raise UsageError(f"{where}: {name} is a table, [{name}], not a value")
        for key in values:
            if not any(f.section == name and f.name == key and f.same_as is None for f in FIELDS):
                raise _unknown(f"{where}: unknown key {key!r} in [{name}]", key, (name,))
    check_all(SECTIONS, FIELDS, data, lambda field: f"{where}: {field.name} in [{field.section}]")
    return data


def by_name(options: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Sort options into sections by their names, see `by_flag`; None stands for not given.

    Raises:
        UsageError: an unknown name, one option under two names, or a value that the option cannot have.
    """
    values: dict[str, dict[str, object]] = {}
    for flag, value in options.items():
        field = by_flag(flag)
        if value is not None:
            taken = checked(SECTIONS[field.section], field, value, flag)
            own = values.setdefault(field.section, {})
            if field.name in own:
                raise UsageError(f"{flag} is given twice, under two names", hint=f"give {field.flag} alone")
            own[field.name] = taken
    return values


def _explained(name: str, error: ValidationError) -> UsageError:
    """The error of a section whose values were checked one by one: an unknown key, or a missing one."""
    problem = error.errors(include_url=False)[0]
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "missing":
        return UsageError(f"{key} in [{name}] is missing")
    return _unknown(f"unknown option {key!r} of {name}", key, (name,))


def _unknown(message: str, word: str, inside: tuple[str, ...]) -> UsageError:
    """The error for an unknown key, which names the nearest one."""
    near = nearest(word, inside)
    if near is not None:
        place = f"[{near}]" if isinstance(near, str) else near.name
        if not isinstance(near, str) and near.section not in inside:
            place = f"{near.name} in [{near.section}]"
        return UsageError(message, hint=f"did you mean {place}?")
    keys = ", ".join(f.name for f in FIELDS if f.section in inside and f.same_as is None) or ", ".join(SECTIONS)
    return UsageError(message, hint=f"known here: {keys}")
