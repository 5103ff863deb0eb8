"""Exact storage of the package's values as JSON with named arrays: what is read equals what was written.

Supported are None, bool, int, float (also infinite), str, lists, tuples, dicts, numpy arrays, enums, and the package's
own dataclasses and records. Tensors are converted by `Tensors`, so that this module needs no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lampq_onnx.disk.records import Record

PACKAGE = __name__.partition(".")[0]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensors:
    """Conversion of a framework's tensors.

    Attributes:
        kind: type of a tensor.
        to_numpy: converts a tensor to a numpy array.
        place: returns the name of a tensor's device.
        from_numpy: converts an array to a tensor on the named device.
    """

    kind: type
    to_numpy: Callable[[Any], NDArray[Any]]
    place: Callable[[Any], str]
    from_numpy: Callable[[NDArray[Any], str], Any]


def encode(value: object, arrays: Arrays, tensors: Tensors | None = None) -> Any:
    """Return the JSON form of ``value``; its arrays are put into ``arrays``.

    Raises:
        TypeError: a value has an unsupported type.
    """
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, np.ndarray) or (tensors is not None and isinstance(value, tensors.kind)):
        name = str(len(arrays))
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return {"array": name}
        assert tensors is not None
        arrays[name] = tensors.to_numpy(value)
        return {"tensor": name, "place": tensors.place(value)}
    if isinstance(value, Enum):
        return {"type": _name(type(value)), "member": value.value}
    if isinstance(value, Record):
        return {"type": _name(type(value)), "record": value.model_dump(mode="json", by_alias=True)}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: encode(getattr(value, f.name), arrays, tensors) for f in fields(value)}
        return {"type": _name(type(value)), "fields": parts}
    if isinstance(value, Mapping):
        return {"pairs": [[encode(k, arrays, tensors), encode(v, arrays, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        tag = "tuple" if isinstance(value, tuple) else "list"
        return {tag: [encode(item, arrays, tensors) for item in value]}
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]], tensors: Tensors | None = None) -> Any:
    """Return the value that `encode` was given.

    Raises:
        ValueError: ``tree`` names a type outside the package.
    """
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]].copy()
    if "tensor" in tree:
        assert tensors is not None
        return tensors.from_numpy(arrays[tree["tensor"]], tree["place"])
    if "pairs" in tree:
        return {decode(k, arrays, tensors): decode(v, arrays, tensors) for k, v in tree["pairs"]}
    if "tuple" in tree or "list" in tree:
        items = [decode(item, arrays, tensors) for item in tree["tuple" if "tuple" in tree else "list"]]
        return tuple(items) if "tuple" in tree else items
    kind = _find(tree["type"])
    if "member" in tree:
        return kind(tree["member"])
    if "record" in tree:
        return kind.model_validate(tree["record"])
    return kind(**{name: decode(part, arrays, tensors) for name, part in tree["fields"].items()})


def _name(kind: type) -> str:
    if kind.__module__.partition(".")[0] != PACKAGE:
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be stored")
    return f"{kind.__module__}:{kind.__qualname__}"


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != PACKAGE:
        raise ValueError(f"{name} is not a type of {PACKAGE}")
    found = getattr(import_module(module), attribute)
    if not (isinstance(found, type) and (issubclass(found, Record | Enum) or is_dataclass(found))):
        raise ValueError(f"{name} is no value type")
    return found
