"""What the pages of the reference say of fields: descriptions and help texts, which stand in the code as values.

mkdocstrings reads source text. This extension of its reader, which mkdocs.yml names, adds what only the imported
classes know.
"""

from __future__ import annotations

import importlib
from typing import Any, is_typeddict

import griffe
from pydantic import BaseModel

from lampq_onnx.config.lookup import by_flag


class FieldDescriptions(griffe.Extension):
    """Gives the fields of records, options and keyword dictionaries their descriptions as docstrings."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add a docstring to each field that has none."""
        found = descriptions(cls.module.path, cls.name)
        for name, text in found.items():
            member = cls.members.get(name)
            if isinstance(member, griffe.Attribute) and member.docstring is None:
                member.docstring = griffe.Docstring(text, parent=member)


def descriptions(module: str, name: str) -> dict[str, str]:
    """Field -> what it holds; of other classes nothing.

    Args:
        module: dotted name of the class's module.
        name: of the class.
    """
    kind = getattr(importlib.import_module(module), name, None)
    if kind is not None and is_typeddict(kind):
        return {key: sentence(by_flag(key).help) for key in kind.__annotations__}
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return {}
    found = {}
    for key, info in kind.model_fields.items():
        text = info.description or next((part.help for part in info.metadata if hasattr(part, "help")), "")
        if text:
            found[key] = sentence(text)
    return found


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[0].upper() + text[1:].rstrip(".") + "."
