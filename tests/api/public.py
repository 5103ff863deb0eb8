"""The public names of the package, and what their docstrings say."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import lampq_onnx

NAME = "lampq_onnx"
LATER = ("converter", "graph.recognition", "workflow.reproduce")
"""Modules whose names the API uses in annotations alone."""


def public() -> dict[str, object]:
    """Name -> function or class."""
    return {name: getattr(lampq_onnx, name) for name in lampq_onnx.__all__}


@functools.cache
def hints_of(owner: object) -> dict[str, object]:
    """Annotations as types, those under TYPE_CHECKING included."""
    later: dict[str, object] = {}
    for module in LATER:
        later |= vars(importlib.import_module(f"{NAME}.{module}"))
    return typing.get_type_hints(owner, localns=later if inspect.isfunction(owner) else None)


def own_types(hint: object) -> Iterator[type]:
    """Classes of this package that an annotation names, however deep."""
    if isinstance(hint, type) and hint.__module__.startswith(NAME):
        yield hint
    for inner in typing.get_args(hint):
        for part in inner if isinstance(inner, list) else [inner]:
            yield from own_types(part)


def members_of(kind: type) -> dict[str, types.FunctionType]:
    """Public methods and properties that a class of this package defines itself."""
    found = {}
    for name, value in vars(kind).items():
        inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        inner = getattr(inner, "func", inner)  # cached properties
        if not name.startswith("_") and inspect.isfunction(inner) and inner.__module__.startswith(NAME):
            found[name] = inner
    return found


def fields_of(kind: type) -> list[str]:
    """Names of the fields of a dataclass or a record that are its own."""
    if issubclass(kind, BaseModel):
        names = list(kind.model_fields)
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        return []
    return [name for name in names if not name.startswith("_") and name not in ("format", "version")]


def documented(text: str, name: str) -> bool:
    """Whether a docstring has an entry of that name in one of its sections; several names may share one."""
    return re.search(rf"(?m)^\s+(?:[\w*]+, )*\*{{0,2}}{name}(?:, [\w*]+)*(?: ?\([^)]*\))?: ", text) is not None


def described(kind: type, name: str) -> bool:
    """Whether it is said what a field holds."""
    if documented(inspect.getdoc(kind) or "", name) or documented(kind.__doc__ or "", name):
        return True
    if not issubclass(kind, BaseModel):
        return False
    info = kind.model_fields[name]
    return bool(info.description or any(hasattr(part, "help") or hasattr(part, "section") for part in info.metadata))


def raises(function: types.FunctionType) -> bool:
    """Whether the body of a function raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def source_of(value: type | types.FunctionType) -> Path:
    """The file that defines it."""
    return Path(str(sys.modules[value.__module__].__file__))
