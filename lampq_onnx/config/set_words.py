"""Words of `--set`: any option of a recipe by its section and key."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from lampq_onnx.config.doors import checked
from lampq_onnx.config.fields import Field
from lampq_onnx.config.lookup import nearest
from lampq_onnx.config.plain_values import parse_plain
from lampq_onnx.config.sections import FIELDS, SECTIONS
from lampq_onnx.config.values import merge
from lampq_onnx.disk.wording import shown
from lampq_onnx.errors import UsageError


def set_values(words: Sequence[str], name: str = "--set") -> dict[str, dict[str, object]]:
    """Read words such as ``allocation.gamma=4``, with the keys of a recipe.

    A value is written as on the command line (``4``, ``2-8``, ``uniform,lampq``) or as in TOML (``[2, 4, 8]``,
    ``"text"``). An argument of the model is ``model.model_args.img_size=32``.

    Args:
        name: of the option, for messages.

    Raises:
        UsageError: no equals sign, an unknown key, or a value that the option cannot have.
    """
    return merge(*(_set_value(word, name) for word in words))


def _set_value(word: str, name: str) -> dict[str, dict[str, object]]:
    place, sign, text = word.partition("=")
    table, *keys = (part.strip() for part in place.split("."))
    if not sign or not keys:
        raise UsageError(f"{name} takes SECTION.KEY=VALUE, not {word!r}", hint=f"e.g. {name} allocation.gamma=4")
    full = f"{name} {place.strip()}"
    if table not in SECTIONS:
        near = nearest(table, ()) or nearest(keys[0], ())
        near = next((f for f in FIELDS if (f.section, f.name) == (near, keys[0]) and f.same_as is None), near)
        raise UsageError(
            f"{full}: unknown section {table!r}",
            hint=f"did you mean {name} {_place(near)}?" if near else f"sections: {', '.join(SECTIONS)}",
        )
    field = next((f for f in FIELDS if (f.section, f.name) == (table, keys[0]) and f.same_as is None), None)
    if field is None:
        near = nearest(keys[0], (table,))
        known = ", ".join(f.name for f in FIELDS if f.section == table and f.same_as is None)
        raise UsageError(
            f"{full}: unknown key {keys[0]!r} in [{table}]",
            hint=f"did you mean {name} {_place(near)}?" if near else f"known here: {known}",
        )
    if len(keys) > (2 if isinstance(field.default, dict) else 1):
        raise UsageError(
            f"{full}: {field.name} in [{table}] has no keys of its own", hint=f"write {name} {table}.{field.name}=VALUE"
        )
    value = _worded(field, text.strip(), full)
    if len(keys) == 2:
        value = {keys[1]: value}
    return {table: {field.name: checked(SECTIONS[table], field, value, full)}}


def _worded(field: Field, text: str, name: str) -> Any:
    """The value of a word: TOML where it starts like a list, a table or text in quotes, else the word itself."""
    if isinstance(field.default, dict) and not text.startswith("{"):
        try:
            return parse_plain(text)
        except ValueError as error:
            raise UsageError(f"{name}: {error}", hint='write lists as [2,2,6,2], and text in quotes: "a"') from error
    if text.startswith(("[", "{", '"', "'")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{name}: {shown(text)} is not valid TOML: {error}",
                hint="close lists and quotes, as in [2, 4, 8]",
            ) from error
    return [part.strip() for part in text.split(",")] if field.kind is list and text else text


def _place(near: Field | str) -> str:
    """The nearest key or section as it is typed behind the option."""
    return f"{near}.KEY=VALUE" if isinstance(near, str) else f"{near.section}.{near.name}=VALUE"
