"""Names, help text and visibility of an option; its type and default are those of the field that it stands at."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lampq_onnx.config.names import TABLES, filled
from lampq_onnx.disk.option import Level, Option, SameAs


@dataclass(frozen=True)
class Field:
    """One field of one section.

    Attributes:
        flag: name on the command line, with underscores; unique over all sections.
        text: the help text with its marks, see `Option.help`.
        default: None for fields that must be given as well.
        kind: what one word of the command line is: bool, int, float, Path, str, or list for repeatable words.
        same_as: the field whose value it takes; None: it is an option of its own.
        words: those that its type names, such as fast, balanced and best; empty: it takes other values.
        names: see Option.
        example: see Option.
    """

    section: str
    name: str
    flag: str
    text: str
    panel: str
    level: Level
    shapes_file: bool
    example: Any
    default: Any
    kind: type
    same_as: SameAs | None
    words: tuple[str, ...]
    names: str | None

    @property
    def dashed(self) -> str:
        """The option as it is typed on the command line."""
        return "--" + self.flag.replace("_", "-")

    @property
    def help(self) -> str:
        """The help text, with the names of the tables that it mentions."""
        return filled(self.text)

    @property
    def choices(self) -> Mapping[str, str]:
        """Names that the option takes -> what each of them is; empty: it takes other values."""
        return TABLES[self.names]() if self.names else dict.fromkeys(self.words, "")


def fields_of(sections: Mapping[str, type[BaseModel]]) -> Iterator[Field]:
    """Fields of all sections in the order they are declared."""
    for section, model in sections.items():
        for name, info in model.model_fields.items():
            option = next((m for m in info.metadata if isinstance(m, Option)), Option(info.description or ""))
            yield Field(
                section=section,
                name=name,
                flag=option.flag or name,
                text=option.help,
                panel=option.panel,
                level=option.level,
                shapes_file=option.shapes_file,
                example=option.example,
                default=None if info.is_required() else info.get_default(call_default_factory=True),
                kind=_kind(info),
                same_as=next((m for m in info.metadata if isinstance(m, SameAs)), None),
                words=tuple(_words(info.annotation)),
                names=option.names,
            )


def text_of(value: object) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, tuple):
        widths = [item for item in value if isinstance(item, int)]
        if len(widths) == len(value) > 2 and widths == list(range(widths[0], widths[-1] + 1)):
            return f"{widths[0]}-{widths[-1]}"
        return ",".join(map(str, value))
    return str(value)


def _is_text(hint: Any) -> bool:
    return hint is str or (get_origin(hint) is Annotated and get_args(hint)[0] is str)


def _words(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (word for word in get_args(hint) if isinstance(word, str))
    elif get_origin(hint) in (types.UnionType, Union):
        for member in get_args(hint):
            yield from _words(member)


def _kind(info: FieldInfo) -> type:
    hint = info.annotation
    if get_origin(hint) in (types.UnionType, Union):
        members = [member for member in get_args(hint) if member is not type(None)]
        hint = members[0] if len(members) == 1 else str
    if hint in (bool, int, float, Path):
        return hint  # type: ignore[return-value]
    if get_origin(hint) is dict or (get_origin(hint) is tuple and _is_text(get_args(hint)[0])):
        return list
    return str
