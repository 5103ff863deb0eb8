"""Image folders with a labels.csv."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from lampq_onnx.data.class_names import class_indices
from lampq_onnx.data.source import FileReader, ImageSource
from lampq_onnx.disk.files import TEXT_LIMIT, require_file
from lampq_onnx.errors import LampqError

TABLE = "labels.csv"
_HEADER = ("path", "label")


def open_table(
    folder: Path,
    *,
    num_classes: int | None,
    need_labels: bool,
    class_names: Sequence[str] = (),
    table: str = TABLE,
) -> ImageSource:
    """Open the images that ``folder/labels.csv`` lists, in its order; other columns are ignored.

    Labels are class indices from 0, or class names: those in ``folder/classes.txt`` (one name per line, in the order of
    the model's outputs), else the model's own. If labels are not needed, they are not read, and the source has none.

    Args:
        folder: the folder that holds the table.
        num_classes: the model's number of classes, against which labels are checked; None checks only the sign.
        need_labels: whether labels are read.
        class_names: the model's own class names, in its order; empty if unknown.
        table: name of the table in the folder.

    Raises:
        LampqError: the table is unreadable or lacks the header or rows; a line (named in the message) has a label that
            is no class, or a path that is absent, missing on disk or outside the folder; or classes.txt cannot be used.
    """
    if not need_labels:
        return open_listed(folder, table=table)
    found: list[tuple[str, str]] = []
    source = open_listed(folder, lambda label, where: found.append((where, label)), table=table)
    return replace(source, labels=class_indices(found, folder, num_classes, class_names))


def open_listed(folder: Path, take: Callable[[str, str], None] | None = None, *, table: str = TABLE) -> ImageSource:
    """Open the images of ``folder/labels.csv`` without labels.

    Args:
        folder: the folder that holds the table.
        take: called for each line with the text of the label and the place in the file, for messages; None: labels are
            not read.
        table: name of the table in the folder.

    Raises:
        LampqError: see `open_table`, except for labels.
    """
    path = folder / table
    require_file(path, "the table", limit=TEXT_LIMIT)
    root = os.path.realpath(folder)
    files: list[str] = []
    for row in _rows(path, _HEADER[:1] if take is None else _HEADER):
        _require_inside(folder, root, row.path, row.where)
        files.append(row.path)
        if take is not None:
            take(row.label, row.where)
    if not files:
        raise LampqError(f"{path} lists no images", hint="add one path,label line per image")
    return ImageSource.whole(
        FileReader(folder, tuple(files)), len(files), None, f"{len(files)} images listed in {path}"
    )


def lists_labels(folder: Path, table: str = TABLE) -> bool:
    """Whether the first line of ``folder/labels.csv`` names a column ``label``; reading errors come later."""
    with (
        contextlib.suppress(OSError, UnicodeDecodeError, csv.Error),
        (folder / table).open(encoding="utf-8-sig", newline="") as stream,
    ):
        return "label" in [name.strip() for name in next(csv.reader(stream), [])]
    return False


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        where: file and line, for messages.
        path: path of the image, relative to the folder.
        label: text of the label; empty if labels are not read.
    """

    where: str
    path: str
    label: str


def _rows(table: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Return each row that is not blank; ``columns`` are path, and label if labels are read."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if any(header.count(name) != 1 for name in columns):
                raise LampqError(
                    f"{table} does not start with the header {','.join(columns)}", hint="make that its first line"
                )
            places = [header.index(name) for name in columns]
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise LampqError(
                        f"{table}, line {reader.line_num}: {len(row)} columns, not {len(header)}",
                        hint='put a path that contains a comma in "quotes"',
                    )
                path, *label = (row[place].strip() for place in places)
                yield Row(f"{table}, line {reader.line_num}", path, "".join(label))
    except OSError as error:
        raise LampqError(f"cannot read {table}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise LampqError(f"{table} is not valid UTF-8 CSV: {error}") from error


def _require_inside(folder: Path, root: str, path: str, where: str) -> None:
    # Windows rules apply too: the same table must mean the same on every system.
    absolute = PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).anchor or PureWindowsPath(path).drive)
    climbs = ".." in PureWindowsPath(path).parts
    if not path or "\0" in path:
        raise LampqError(f"{where}: {path!r} is not a path", hint="give each line a path relative to the folder")
    target = os.path.realpath(folder / path)
    # realpath resolves links, so a link that leads out of the folder is refused too.
    if absolute or climbs or not Path(target).is_relative_to(root):
        raise LampqError(
            f"{where}: the path {path} leads outside {folder}",
            hint="list only files inside the folder, by paths relative to it and without ..",
        )
    if not os.path.isfile(target):
        raise LampqError(f"{where}: there is no file {folder / path}", hint="add the file or remove the line")
