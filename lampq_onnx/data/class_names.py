"""Turn labels, as people write them, into class indices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lampq_onnx.disk.files import read_text
from lampq_onnx.errors import LampqError

CLASSES = "classes.txt"
"""File with the names of the classes, one per line, in the order of the model's outputs."""

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # at most 18 digits: always fits int64
_SHOWN = 3


def class_indices(
    labels: Sequence[tuple[str, str]], folder: Path, num_classes: int | None, class_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return the class of each label, int64 (n,).

    If all labels are integers, they are class indices, and no names are looked up.

    Args:
        labels: for each label its place, for messages, and its text.
        folder: may hold `CLASSES`, which takes precedence over ``class_names``.
        num_classes: number of classes of the model; None if unknown.
        class_names: the model's own class names, in its order; may be empty.

    Raises:
        LampqError: a label (its place is named) is no class or could be two, or `CLASSES` does not fit the model.
    """
    texts = [text for _, text in labels]
    if all(_INTEGER.fullmatch(text) for text in texts):
        return np.array([_checked(int(text), num_classes, where) for where, text in labels], dtype=np.int64)
    names, source = _names(folder, num_classes, class_names)
    places = {name: index for index, name in enumerate(names)}
    return np.array([_index(text, where, places, source, num_classes) for where, text in labels], dtype=np.int64)


def _index(text: str, where: str, places: dict[str, int], source: str, num_classes: int | None) -> int:
    found = places.get(text)
    if _INTEGER.fullmatch(text):
        index = _checked(int(text), num_classes, where)
        if found not in (None, index):
            raise LampqError(
                f"{where}: the label {text} is the name of class {found} in {source}, and also the index of another",
                hint="write either names or class indices in all lines",
            )
        return index
    if found is None:
        if not places:
            raise LampqError(
                f"{where}: the label {text!r} is not an integer, and the names of the classes are not known",
                hint=f"write class indices from 0, or put a {CLASSES} beside the table: one name per line, in the "
                "order of the model's outputs",
            )
        near = difflib.get_close_matches(text, places, n=_SHOWN, cutoff=0.6)
        raise LampqError(
            f"{where}: the label {text!r} is no class of {source}",
            hint=f"did you mean {' or '.join(map(repr, near))}?" if near else "labels are class indices or such names",
        )
    return found


def _checked(index: int, num_classes: int | None, where: str) -> int:
    if index < 0:
        raise LampqError(f"{where}: the label {index} is negative", hint="labels are class indices from 0")
    if num_classes is not None and index >= num_classes:
        raise LampqError(
            f"{where}: the label {index} is not below the model's {num_classes} classes",
            hint="labels are class indices from 0, in the order of the model's outputs",
        )
    return index


def _names(folder: Path, num_classes: int | None, own: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the names in the order of the classes, and where they come from."""
    path = folder / CLASSES
    if not path.exists():
        return _distinct(tuple(own), "the model"), "the model"
    names = tuple(line.strip() for line in read_text(path, "the class names").lstrip("\ufeff").splitlines())
    names = tuple(name for name in names if name)
    if num_classes is not None and len(names) != num_classes:
        raise LampqError(
            f"{path} names {len(names)} classes, but the model has {num_classes}",
            hint="write one name per line, in the order of the model's outputs",
        )
    if own and set(own) == set(names) and tuple(own) != names:
        first = next(index for index, (a, b) in enumerate(zip(own, names, strict=False)) if a != b)
        raise LampqError(
            f"{path} calls class {first} {names[first]!r}, but the model calls it {own[first]!r}",
            hint="bring its lines into the model's order, or remove the file",
        )
    return _distinct(names, str(path)), str(path)


def _distinct(names: tuple[str, ...], source: str) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise LampqError(
            f"{source} has two classes named {twice!r}, so labels cannot be names",
            hint="write class indices from 0 in the table",
        )
    return names
