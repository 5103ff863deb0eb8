"""How a field of the options is called on the command line and in a recipe; everything else follows from its type."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lampq_onnx.disk.option import Option, SameAs


@dataclass(frozen=True)
class Field:
    """One field of one section.

    Attributes:
        flag: name on the command line, with underscores; unique over all sections.
        default: None for fields that must be given as well.
        kind: what one word of the command line is: bool, int, float, Path, str, or list for repeatable words.
        same_as: whose value it takes.
        example: see Option.
    """

    section: str
    name: str
    flag: str
    help: str
    panel: str
    shapes_file: bool
    example: Any
    default: Any
    kind: type
    same_as: SameAs | None

    @property
    def dashed(self) -> str:
        """As it is typed."""
        return "--" + self.flag.replace("_", "-")


def fields_of(sections: Mapping[str, type[BaseModel]]) -> Iterator[Field]:
    """Fields of all sections in the order they are declared."""
    for section, model in sections.items():
        for name, info in model.model_fields.items():
            option = next((m for m in info.metadata if isinstance(m, Option)), Option(info.description or ""))
            yield Field(
                section=section,
                name=name,
                flag=option.flag or name,
                help=option.help,
                panel=option.panel,
                shapes_file=option.shapes_file,
                example=option.example,
                default=None if info.is_required() else info.get_default(call_default_factory=True),
                kind=_kind(info),
                same_as=next((m for m in info.metadata if isinstance(m, SameAs)), None),
            )


def text_of(value: object) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        widths = [item for item in value if isinstance(item, int)]
        if len(widths) == len(value) > 2 and widths == list(range(widths[0], widths[-1] + 1)):
            return f"{widths[0]}-{widths[-1]}"
        return ",".join(map(str, value))
    return str(value)


def _is_text(hint: Any) -> bool:
    return hint is str or (get_origin(hint) is Annotated and get_args(hint)[0] is str)


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
