"""Values of the package as JSON beside named arrays, exactly: what is read back equals what was written.

Taken are None, bool, int, float (infinite as well), str, lists, tuples, dicts, numpy arrays, enums, and the package's
own dataclasses and records. Tensors go in and out through `Tensors`, so that this module needs no framework.
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
    """A framework's arrays.

    Attributes:
        kind: their type.
        to_numpy: any of them to a numpy array.
        place: the name of the device that it is on.
        from_numpy: an array and a device's name back to one.
    """

    kind: type
    to_numpy: Callable[[Any], NDArray[Any]]
    place: Callable[[Any], str]
    from_numpy: Callable[[NDArray[Any], str], Any]


def encode(value: object, arrays: Arrays, tensors: Tensors | None = None) -> Any:
    """The JSON form of ``value``; its arrays are put into ``arrays``.

    Raises:
        TypeError: a value of another type.
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
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]], tensors: Tensors | None = None) -> Any:
    """The value that `encode` was given.

    Raises:
        ValueError: ``tree`` names a type that is none of the package's.
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
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be kept")
    return f"{kind.__module__}:{kind.__qualname__}"


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != PACKAGE:
        raise ValueError(f"{name} is not a type of {PACKAGE}")
    found = getattr(import_module(module), attribute)
    if not (isinstance(found, type) and (issubclass(found, Record | Enum) or is_dataclass(found))):
        raise ValueError(f"{name} is no value type")
    return found
