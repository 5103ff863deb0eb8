"""Labels that are real numbers: one or several per image."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lampq_onnx.data.folders import open_folder
from lampq_onnx.data.label_table import TABLE, lists_labels, open_listed
from lampq_onnx.data.listed_files import listed_of
from lampq_onnx.data.npz import open_npz
from lampq_onnx.data.source import ImageSource, Targets
from lampq_onnx.errors import LampqError

_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, RuntimeError, OSError)
"""Exceptions that numpy and zipfile raise on damaged archives."""

_FORM = "a label is one number, or as many numbers as the model has outputs, with spaces between them"


def open_with_numbers(path: Path) -> ImageSource:
    """Open images with their labels as `ImageSource.targets`; there may be none.

    Args:
        path: a folder with labels.csv (a label is a number, or several with spaces between them), an .npz file (labels
            (n, ...) of any number type), a folder of class folders (their positions are the numbers), or a flat folder.

    Raises:
        LampqError: the images or labels are of no such form; the message names the line or the row.
    """
    if os.path.isdir(path):
        return _open_table(path) if os.path.lexists(path / TABLE) else _open_folder(path)
    if path.suffix.lower() == ".csv":
        return _open_table(path.parent, path.name)
    source = open_npz(path, num_classes=None, need_labels=False)
    return replace(source, targets=_npz_numbers(path, len(source)))


def label_numbers(path: Path) -> Targets | None:
    """Read the labels of a collection as numbers, float64 (n, ...); None if it has none, or labels of another form.

    No image is opened, and only the form of the labels is checked: `open_with_numbers` checks the rest.

    Raises:
        LampqError: a table or folder cannot be read.
    """
    if os.path.isdir(path) and os.path.lexists(path / TABLE):
        return _numbers_of_table(path, TABLE) if lists_labels(path) else None
    listed = listed_of(path) if os.path.exists(path) else None
    if listed is not None:
        return listed.numbers()
    if os.path.isdir(path):
        return _open_folder(path).targets
    if path.suffix.lower() == ".csv" and lists_labels(path.parent, path.name):
        return _numbers_of_table(path.parent, path.name)
    if path.suffix.lower() != ".npz" or not os.path.isfile(path):
        return None
    try:
        labels = _npz_labels(path)
    except _UNREADABLE:  # the error is reported when the images of the file are opened
        return None
    numbers = labels is not None and labels.dtype.kind in "iufb" and labels.ndim > 0 and len(labels) > 0
    return labels.astype(np.float64) if labels is not None and numbers else None


def _numbers_of_table(folder: Path, table: str) -> Targets | None:
    texts: list[str] = []
    open_listed(folder, lambda label, _: texts.append(label), table=table)
    rows = [_numbers(text) for text in texts]
    return None if any(row is None or len(row) != len(rows[0] or ()) for row in rows) else _table(rows)


def _open_table(folder: Path, table: str = TABLE) -> ImageSource:
    rows: list[list[float] | None] = []

    def take(label: str, where: str) -> None:
        row = _numbers(label)
        if row is None:
            raise LampqError(f"{where}: the label {label!r} is not a number", hint=_FORM)
        if rows and len(row) != len(rows[0] or ()):
            raise LampqError(
                f"{where}: the label holds {len(row)} numbers and the first one holds {len(rows[0] or ())}", hint=_FORM
            )
        rows.append(row)

    source = open_listed(folder, take, table=table)
    return replace(source, targets=_table(rows))


def _open_folder(folder: Path) -> ImageSource:
    found = open_folder(folder, num_classes=None, need_labels=False)
    targets = None if found.labels is None else found.labels.astype(np.float64)
    return replace(found, labels=None, targets=targets)


def _numbers(text: str) -> list[float] | None:
    """Parse the finite numbers of a label; None if it is something else."""
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        return None
    return found if found and all(map(math.isfinite, found)) else None


def _table(rows: list[list[float] | None]) -> Targets:
    """Make an array of the labels: (n,) for one number per label, else (n, k)."""
    found = np.array(rows, dtype=np.float64)
    return found[:, 0] if found.shape[1] == 1 else found


def _npz_labels(path: Path) -> NDArray[Any] | None:
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays["labels"]) if "labels" in arrays.files else None


def _npz_numbers(path: Path, count: int) -> Targets | None:
    try:
        labels = _npz_labels(path)
    except _UNREADABLE as error:
        raise LampqError(f"the labels of {path} cannot be read: {error}") from error
    if labels is None:
        return None
    if labels.dtype.kind not in "iufb":
        raise LampqError(f"{path}: labels has the dtype {labels.dtype}, not numbers", hint=_FORM)
    if labels.ndim < 1 or len(labels) != count:
        raise LampqError(
            f"{path} has {count} images and labels of the shape {labels.shape}", hint="save one label for each image"
        )
    values: Targets = labels.astype(np.float64)
    # Dense maps may have pixels without a label, which are NaN; single numbers may not be NaN.
    wrong = np.isinf(values) if values.ndim > 2 else ~np.isfinite(values)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise LampqError(f"{path}: labels[{row}] is NaN or infinite", hint="leave images without a label out")
    return values
