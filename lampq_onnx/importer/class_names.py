"""Reads the names of a model's classes from the configuration beside its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lampq_onnx.disk.files import read_text
from lampq_onnx.errors import LampqError

CONFIG = "config.json"
"""Name of the file that Hugging Face writes beside a model."""

UNNAMED = "LABEL_{}"
"""Name that transformers gives to classes without a name."""


def names_of(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names in the order of the classes; empty if all are default names, or indices are missing."""
    names = {int(key): str(name) for key, name in id2label.items() if str(key).isdecimal()}
    if sorted(names) != list(range(len(id2label))):
        return ()
    ordered = tuple(names[index] for index in range(len(names)))
    return ordered if any(name != UNNAMED.format(index) for index, name in enumerate(ordered)) else ()


def read_class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Read the names from a folder's `CONFIG`; empty if it has none for ``count`` classes.

    Raises:
        LampqError: the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return ()
    try:
        data = json.loads(read_text(path, "the model's configuration"))
    except (ValueError, RecursionError) as error:
        raise LampqError(
            f"{path} is damaged: {error}", hint="repair it, or remove it: only names of classes are read from it"
        ) from error
    said = data.get("id2label") if isinstance(data, dict) else None
    names = names_of(said) if isinstance(said, dict) else ()
    return names if len(names) == count else ()
