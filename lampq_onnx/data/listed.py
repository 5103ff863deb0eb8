"""Images of any collection with the texts of their labels, before these become classes or numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lampq_onnx.data.class_names import class_indices
from lampq_onnx.data.source import ImageSource, Reader, Targets
from lampq_onnx.errors import LampqError

IMAGE_COLUMNS = ("image", "img", "images")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")
"""Names of columns, the first one that a table has counts."""

_INDEX = re.compile(r"[0-9]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Listed:
    """Images, and what their collection says about their labels.

    Attributes:
        reader: reads the pixels.
        count: number of images.
        labels: place, for messages, and text of each label; None: there are none.
        names: names of the collection's own classes, by the index that its labels are; empty: not known.
        folder: may hold classes.txt.
        description: what was opened, as text.
    """

    reader: Reader
    count: int
    labels: Sequence[tuple[str, str]] | None
    names: tuple[str, ...]
    folder: Path
    description: str

    def with_classes(self, num_classes: int | None, *, need_labels: bool, class_names: Sequence[str]) -> ImageSource:
        """Return the images with class indices; without labels if they are not needed.

        Indices of a collection that names its classes in another order than the model are translated by the names.

        Raises:
            LampqError: labels are needed and there are none, or one is no class of the model, or the collection has
                another number of classes and its names do not tell which.
        """
        bare = ImageSource.whole(self.reader, self.count, None, self.description)
        if not need_labels:
            return bare
        if self.labels is None:
            raise LampqError(
                f"{self.description} have no labels, which are needed here",
                hint=f"name the column of the labels {LABEL_COLUMNS[0]}",
            )
        found = class_indices(self._translated(num_classes, class_names), self.folder, num_classes, class_names)
        return ImageSource.whole(self.reader, self.count, found, self.description)

    def with_numbers(self) -> ImageSource:
        """Return the images with their labels as real numbers, float64 (n, ...); without, if there are none.

        Raises:
            LampqError: a label is no number, or not as many numbers as the first.
        """
        bare = ImageSource.whole(self.reader, self.count, None, self.description)
        if self.labels is None:
            return bare
        return ImageSource(bare.reader, bare.positions, None, self.description, targets=self._numbers(self.labels))

    def numbers(self) -> Targets | None:
        """Labels as real numbers; None if there are none, or if they are something else."""
        if self.labels is None:
            return None
        try:
            return self._numbers(self.labels)
        except LampqError:  # reported when the labels are used
            return None

    def _translated(self, num_classes: int | None, class_names: Sequence[str]) -> Sequence[tuple[str, str]]:
        labels = self.labels or ()
        if not self.names or not all(_INDEX.fullmatch(text) for _, text in labels):
            return labels
        if set(self.names) <= set(class_names):
            return [(where, self._name(where, text)) for where, text in labels]
        if num_classes is not None and len(self.names) != num_classes:
            raise LampqError(
                f"{self.description} have {len(self.names)} classes ({self.names[0]}, ...), but the model has "
                f"{num_classes}",
                hint="use images of the model's classes, or a labels.csv with the model's class indices",
            )
        return labels

    def _name(self, where: str, text: str) -> str:
        index = int(text)
        if index >= len(self.names):
            raise LampqError(
                f"{where}: the label {text} is not below the {len(self.names)} classes of the collection",
                hint="labels are indices from 0 into the names that it stores",
            )
        return self.names[index]

    def _numbers(self, labels: Sequence[tuple[str, str]]) -> Targets:
        rows: list[list[float]] = []
        for where, text in labels:
            try:
                row = [float(word) for word in text.split()]
            except ValueError:
                row = []
            if not row or (rows and len(row) != len(rows[0])) or not np.isfinite(row).all():
                raise LampqError(
                    f"{where}: the label {text!r} is not {len(rows[0]) if rows else 'a row of'} finite number(s)",
                    hint="a label is one number, or as many as the model has outputs",
                )
            rows.append(row)
        found = np.array(rows, dtype=np.float64)
        return found[:, 0] if found.shape[1] == 1 else found


def label_text(value: object) -> str:
    """Return a label as text: whole numbers without a point, rows of numbers with spaces."""
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(label_text(item) for item in value)
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)
