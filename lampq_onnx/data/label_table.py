"""A folder with a labels.csv."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from lampq_onnx.data.source import FileReader, ImageSource
from lampq_onnx.errors import LampqError
from lampq_onnx.files import TEXT_LIMIT, require_file

TABLE = "labels.csv"
_HEADER = ("path", "label")
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # at most 18 digits: always fits int64


def open_table(folder: Path, *, num_classes: int | None) -> ImageSource:
    """Open the images that ``folder/labels.csv`` lists, in its order; other columns are ignored.

    Raises
    ------
    LampqError
        The table is unreadable, lacks the header or rows, or a line (named in the message) has a label that
        is not a class index, or a path that is absent, missing on disk or outside the folder.
    """
    labels: list[int] = []
    source = open_listed(folder, lambda label, where: labels.append(_class_index(label, num_classes, where)))
    return replace(source, labels=np.array(labels, dtype=np.int64))


def open_listed(folder: Path, take: Callable[[str, str], None] | None = None) -> ImageSource:
    """Open the images of ``folder/labels.csv`` without labels.

    Parameters
    ----------
    folder : holds the table.
    take : called for each line with the text of the label and the place in the file, for messages; None: labels are
        not looked at.

    Raises
    ------
    LampqError
        See `open_table`, but for the labels.
    """
    table = folder / TABLE
    require_file(table, "the table", limit=TEXT_LIMIT)
    root = os.path.realpath(folder)
    files: list[str] = []
    for line, path, label in _rows(table):
        where = f"{table}, line {line}"
        _require_inside(folder, root, path, where)
        files.append(path)
        if take is not None:
            take(label, where)
    if not files:
        raise LampqError(f"{table} lists no images", hint="add one path,label line per image")
    return ImageSource.whole(
        FileReader(folder, tuple(files)), len(files), None, f"{len(files)} images listed in {table}"
    )


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, path, label) of each row that is not blank."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if any(header.count(name) != 1 for name in _HEADER):
                raise LampqError(f"{table} does not start with the header path,label", hint="make that its first line")
            at_path, at_label = map(header.index, _HEADER)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise LampqError(
                        f"{table}, line {reader.line_num}: {len(row)} columns, not {len(header)}",
                        hint='put a path that contains a comma in "quotes"',
                    )
                yield reader.line_num, row[at_path].strip(), row[at_label].strip()
    except OSError as error:
        raise LampqError(f"cannot read {table}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise LampqError(f"{table} is not valid UTF-8 CSV: {error}") from error


def _require_inside(folder: Path, root: str, path: str, where: str) -> None:
    # Windows rules too: the same table must mean the same on every system.
    absolute = PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).anchor or PureWindowsPath(path).drive)
    climbs = ".." in PureWindowsPath(path).parts
    if not path or "\0" in path:
        raise LampqError(f"{where}: {path!r} is not a path", hint="give each line a path relative to the folder")
    target = os.path.realpath(folder / path)
    # realpath resolves links, so a link that leads out of the folder is refused as well.
    if absolute or climbs or not Path(target).is_relative_to(root):
        raise LampqError(
            f"{where}: the path {path} leads out of {folder}",
            hint="list only files inside the folder, by paths relative to it and without ..",
        )
    if not os.path.isfile(target):
        raise LampqError(f"{where}: there is no file {folder / path}", hint="add the file or remove the line")


def _class_index(text: str, num_classes: int | None, where: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise LampqError(f"{where}: the label {text!r} is not an integer", hint="labels are class indices from 0")
    label = int(text)
    if label < 0:
        raise LampqError(f"{where}: the label {label} is negative", hint="labels are class indices from 0")
    if num_classes is not None and label >= num_classes:
        raise LampqError(
            f"{where}: the label {label} is not below the model's {num_classes} classes",
            hint="labels are class indices from 0, in the order of the model's outputs",
        )
    return label
