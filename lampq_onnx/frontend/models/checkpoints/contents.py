"""Flattens a checkpoint to one dict of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints.container import read_container
from lampq_onnx.frontend.models.checkpoints.refusals import ONLY_WEIGHTS

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Name parts that torch.compile, FSDP and activation checkpointing insert into the names of weights, at any depth."""

_DEEPEST, _MOST = 16, 10**7
"""Largest depth of dicts within dicts, and largest number of items: files can refer to the same dict repeatedly."""

_SHOWN = 6


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file.

    Attributes:
        path: path of the file.
        tensors: by their place in the file: keys of nested dicts joined by dots, without `WRAPPERS`.
        tables: place of each dict that holds tensors -> number of tensors; the outermost one is "".
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    tables: Mapping[str, int]

    def under(self, key: str) -> Checkpoint:
        """The part under a key, e.g. ``teacher`` or ``state_dict.model``.

        Raises:
            LampqError: there are no tensors under the key; the message lists the keys that exist.
        """
        tensors = {name: value for name, value in self.tensors.items() if name.startswith(f"{key}.")}
        if not tensors:
            raise LampqError(
                f"the checkpoint {self.path} has no tensors under {key!r}", hint=f"it holds {self.described()}"
            )
        return Checkpoint(self.path, tensors, {k: n for k, n in self.tables.items() if f"{k}.".startswith(f"{key}.")})

    def described(self) -> str:
        """The dicts that hold tensors as text, the largest first."""
        ordered = sorted(self.tables.items(), key=lambda item: -item[1])
        shown = [f"{place or 'the outermost table'} ({count} tensors)" for place, count in ordered[:_SHOWN]]
        more = len(ordered) - len(shown)
        return ", ".join(shown) + (f" and {more} smaller tables" if more else "")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read all tensors of a checkpoint; `read_container` lists the formats.

    Raises:
        LampqError: the file cannot be read, or holds no tensors by name.
    """
    data = read_container(path)
    if not isinstance(data, Mapping | list | tuple):
        what = "one tensor" if isinstance(data, torch.Tensor) else f"a {type(data).__name__}"
        raise LampqError(f"the checkpoint {path} holds {what}, not tensors by name", hint=ONLY_WEIGHTS)
    tensors: dict[str, torch.Tensor] = {}
    tables: dict[str, int] = {}
    for seen, (table, key, value) in enumerate(_items(data, "", 0)):
        if seen >= _MOST:
            raise LampqError(f"the checkpoint {path} has more than {_MOST} entries", hint=ONLY_WEIGHTS)
        if isinstance(value, torch.Tensor):
            name = joined(table, key)
            if name in tensors and tensors[name] is not value:
                raise LampqError(f"the checkpoint {path} holds two tensors under the name {name}", hint=ONLY_WEIGHTS)
            tensors[name] = value
            tables[table] = tables.get(table, 0) + 1
    if not tensors:
        raise LampqError(f"the checkpoint {path} holds no tensors", hint=ONLY_WEIGHTS)
    return Checkpoint(path, tensors, tables)


def joined(table: str, key: object) -> str:
    """Place of a key within a dict, without `WRAPPERS`."""
    parts = [part for part in str(key).split(".") if part not in WRAPPERS]
    return ".".join([table, *parts] if table else parts)


def _items(data: object, place: str, depth: int) -> Iterator[tuple[str, object, object]]:
    """Place of the dict, key and value of every item in nested dicts and lists."""
    if depth > _DEEPEST:
        return
    pairs = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in pairs:
        yield place, key, value
        if isinstance(value, Mapping | list | tuple):
            yield from _items(value, joined(place, key), depth + 1)
