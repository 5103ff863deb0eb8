"""Images in tables of Apache Arrow: parquet files, and folders that `datasets` wrote with save_to_disk."""

from __future__ import annotations

import importlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from lampq_onnx.data.decoding import Pixels, decode, decode_bytes
from lampq_onnx.data.listed import IMAGE_COLUMNS, LABEL_COLUMNS, Listed, label_text
from lampq_onnx.disk.files import read_text
from lampq_onnx.errors import LampqError

PARQUET = ".parquet"
STATE = "state.json"
"""File that `datasets` writes beside the tables of a folder."""

_KEPT = 2
"""Parts of a table whose images are in memory at once."""


class Tables(Protocol):
    """Parts of a table, each read as a whole."""

    def columns(self) -> list[str]:
        """Names of the columns."""

    def lengths(self) -> list[int]:
        """Number of rows of each part."""

    def column(self, part: int, name: str) -> list[Any]:
        """Cells of one column of a part."""

    def class_names(self, column: str) -> tuple[str, ...]:
        """Names of the classes that `datasets` stores for a column; empty: it stores none."""


def open_parquet(path: Path) -> Listed:
    """Open a parquet file, or all parquet files of a folder, sorted by name.

    A row is an image: a column ``image`` with the bytes of an image file, or with a table of ``bytes`` and ``path`` as
    `datasets` writes it. A column ``label`` is optional.

    Raises:
        LampqError: pyarrow is missing, a file cannot be read, or there is no column of images.
    """
    files = sorted(path.glob(f"*{PARQUET}")) if path.is_dir() else [path]
    return _listed(_Parquet(files), path, path if path.is_dir() else path.parent)


def open_saved(folder: Path) -> Listed:
    """Open a folder that `datasets` wrote with save_to_disk.

    Raises:
        LampqError: pyarrow is missing, or a file cannot be read.
    """
    try:
        state = json.loads(read_text(folder / STATE, "the state of the data set"))
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LampqError(
            f"{folder / STATE} is not what `datasets` writes: {error}", hint="write it with dataset.save_to_disk(...)"
        ) from error
    if state.get("_indices_data_files"):
        raise LampqError(
            f"{folder} stores a choice of rows beside its tables, which is not read",
            hint="write it with dataset.flatten_indices().save_to_disk(...)",
        )
    return _listed(_Arrow(files), folder, folder)


@dataclass(frozen=True, eq=False)
class TableReader:
    """Images of a table, read part by part.

    Attributes:
        tables: the table.
        column: column of the images.
        origin: the file or folder, for messages.
        folder: where paths of images start.
        starts: number of rows before each part.
    """

    tables: Tables = field(repr=False)
    column: str
    origin: Path
    folder: Path
    starts: tuple[int, ...] = field(repr=False)

    def image(self, position: int) -> Pixels:
        """Decode the image of one cell."""
        part = bisect_right(self.starts, position) - 1
        cell = _cells(self, part)[position - self.starts[part]]
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if isinstance(data, bytes):
            return decode_bytes(data, self.name(position))
        path = data if isinstance(data, str) else path
        if isinstance(path, str):
            return decode(self.folder / path)
        raise LampqError(
            f"the cell {self.name(position)} holds no image file but {type(data).__name__}",
            hint="store the bytes of image files, as `datasets` does for columns of the type Image",
        )

    def name(self, position: int) -> str:
        """Return the file or folder, and the row."""
        return f"{self.origin}[{position}]"


@lru_cache(maxsize=_KEPT)
def _cells(reader: TableReader, part: int) -> list[Any]:
    return reader.tables.column(part, reader.column)


def _listed(tables: Tables, path: Path, folder: Path) -> Listed:
    columns, lengths = tables.columns(), tables.lengths()
    image = _first(IMAGE_COLUMNS, columns)
    if image is None:
        raise LampqError(
            f"{path} has no column of images: its columns are {', '.join(columns)}",
            hint=f"name it {IMAGE_COLUMNS[0]}; it holds the bytes of image files",
        )
    count = sum(lengths)
    if not count:
        raise LampqError(f"{path} holds no images", hint="give a table with at least one row")
    label = _first(LABEL_COLUMNS, columns)
    labels = None
    if label is not None:
        cells = [cell for part in range(len(lengths)) for cell in tables.column(part, label)]
        labels = [(f"{path}[{row}]", label_text(cell)) for row, cell in enumerate(cells)]
    reader = TableReader(tables, image, path, folder, tuple(accumulate(lengths[:-1], initial=0)))
    names = () if label is None else tables.class_names(label)
    return Listed(reader, count, labels, names, folder, f"{count} images in {path}")


def _first(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


class _Parquet:
    """Row groups of parquet files."""

    def __init__(self, files: Sequence[Path]) -> None:
        parquet = _pyarrow("pyarrow.parquet")
        self._files = [_opened(parquet.ParquetFile, path) for path in files]
        self._parts = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        first = self._files[0].schema_arrow.names if self._files else []
        for path, file in zip(files, self._files, strict=True):
            if file.schema_arrow.names != first:
                raise LampqError(f"{path} has other columns than {files[0]}", hint="give files of one data set")

    def columns(self) -> list[str]:
        return list(self._files[0].schema_arrow.names)

    def lengths(self) -> list[int]:
        return [file.metadata.row_group(group).num_rows for file, group in self._parts]

    def column(self, part: int, name: str) -> list[Any]:
        file, group = self._parts[part]
        found: list[Any] = file.read_row_group(group, columns=[name]).column(0).to_pylist()
        return found

    def class_names(self, column: str) -> tuple[str, ...]:
        return _class_names(self._files[0].schema_arrow.metadata, column)


class _Arrow:
    """Memory-mapped tables of Arrow, cut in parts of some rows."""

    def __init__(self, files: Sequence[Path], rows: int = 256) -> None:
        pyarrow, ipc = _pyarrow("pyarrow"), _pyarrow("pyarrow.ipc")

        def read(path: Path) -> Any:
            return ipc.open_stream(pyarrow.memory_map(str(path), "r")).read_all()

        tables = [_opened(read, path) for path in files]
        self._table = pyarrow.concat_tables(tables)
        self._rows = rows

    def columns(self) -> list[str]:
        return list(self._table.column_names)

    def lengths(self) -> list[int]:
        total = self._table.num_rows
        return [min(self._rows, total - start) for start in range(0, total, self._rows)]

    def column(self, part: int, name: str) -> list[Any]:
        found: list[Any] = self._table.column(name).slice(part * self._rows, self._rows).to_pylist()
        return found

    def class_names(self, column: str) -> tuple[str, ...]:
        return _class_names(self._table.schema.metadata, column)


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """Names that `datasets` stores in the schema."""
    try:
        known = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        names = known.get("info", {}).get("features", {}).get(column, {}).get("names", ())
        return tuple(str(name) for name in names)
    except (ValueError, AttributeError, TypeError):
        return ()


def _opened(open_file: Any, path: Path) -> Any:
    try:
        return open_file(path)
    except Exception as error:  # pyarrow's errors have no common base
        raise LampqError(
            f"cannot read the table {path}: {str(error)[:300] or type(error).__name__}",
            hint="the file is damaged, or is no table of Apache Arrow: write it again",
        ) from error


def _pyarrow(module: str) -> Any:
    """Import a part of pyarrow, which is optional.

    Raises:
        LampqError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LampqError("tables of images need the package pyarrow", hint="pip install pyarrow") from error
