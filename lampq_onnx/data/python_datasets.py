"""Data sets of Python: those of Hugging Face (image, label) and of torchvision, known by what they can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from PIL import Image

from lampq_onnx.data.decoding import Pixels, decode_bytes
from lampq_onnx.data.listed import IMAGE_COLUMNS, LABEL_COLUMNS, Listed, label_text
from lampq_onnx.errors import LampqError


class MapDataset(Protocol):
    """A data set whose items are read by position."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, position: int) -> Any:
        """Return an item: a pair, or a table of columns."""


def is_dataset(value: object) -> TypeGuard[MapDataset]:
    """Whether a value is a data set of raw images, and not batches of tensors.

    Its items are tables with a column of images, or an image, or an image with a label. Images are those of Pillow or
    uint8 arrays (h, w) or (h, w, channels).
    """
    if isinstance(value, str | bytes | dict) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        return False
    if not len(value):
        return False
    try:
        item = value[0]
    except (KeyError, TypeError):
        return False
    if isinstance(item, dict):
        return any(name in item for name in IMAGE_COLUMNS)
    return _is_raw(item[0] if isinstance(item, tuple | list) and item else item)


def open_dataset(dataset: MapDataset) -> Listed:
    """Open a data set of Hugging Face (rows with ``image`` and ``label``) or torchvision (pairs).

    Raises:
        LampqError: its labels cannot be read.
    """
    kind, count = type(dataset).__name__, len(dataset)
    labels = _labels(dataset)
    found = None if labels is None else [(f"{kind}[{row}]", label_text(value)) for row, value in enumerate(labels)]
    reader = DatasetReader(dataset, kind)
    return Listed(reader, count, found, _names(dataset), Path(), f"{count} images of a {kind}")


@dataclass(frozen=True, eq=False)
class DatasetReader:
    """Images of a data set."""

    dataset: MapDataset = field(repr=False)
    kind: str

    def image(self, position: int) -> Pixels:
        """Take the image out of one item."""
        item = self.dataset[position]
        if isinstance(item, dict):
            item = next(item[name] for name in IMAGE_COLUMNS if name in item)
        elif isinstance(item, tuple | list):
            item = item[0]
        if isinstance(item, dict) and isinstance(item.get("bytes"), bytes):
            return decode_bytes(item["bytes"], self.name(position))
        if isinstance(item, np.ndarray) and _is_raw(item):
            pixels = np.array(item, order="C")
            return Image.fromarray(pixels) if pixels.ndim == 2 or pixels.shape[2] == 3 else pixels
        if isinstance(item, Image.Image):
            item.load()
            return item
        raise LampqError(
            f"{self.name(position)} is not an image but {type(item).__name__}",
            hint="leave out transforms: images go through the model's own preprocessing. Tensors that are prepared "
            "already come from a DataLoader",
        )

    def name(self, position: int) -> str:
        """Return the kind of the data set, and the position."""
        return f"{self.kind}[{position}]"


def _is_raw(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim in (2, 3)
    return isinstance(value, Image.Image)


def _labels(dataset: MapDataset) -> Sequence[Any] | None:
    """Labels without decoding images, where the data set can do that."""
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list):
        name = next((name for name in LABEL_COLUMNS if name in columns), None)
        return None if name is None else list(dataset[name])  # type: ignore[index]  # columns by name
    for attribute in ("targets", "labels", "_labels"):
        own = getattr(dataset, attribute, None)
        if own is not None and hasattr(own, "__len__") and len(own) == len(dataset):
            return [value.item() if hasattr(value, "item") else value for value in own]
    first = dataset[0]
    if isinstance(first, dict):
        name = next((name for name in LABEL_COLUMNS if name in first), None)
        return None if name is None else [dataset[i][name] for i in range(len(dataset))]
    if not isinstance(first, tuple | list) or len(first) < 2:
        return None
    values = [dataset[i][1] for i in range(len(dataset))]
    return [value.item() if hasattr(value, "item") else value for value in values]


def _names(dataset: MapDataset) -> tuple[str, ...]:
    """Names of the classes by index: those of a column of `datasets`, or the attribute ``classes`` of torchvision."""
    features = getattr(dataset, "features", None)
    if isinstance(features, dict):
        column = next((features[name] for name in LABEL_COLUMNS if name in features), None)
        names = getattr(column, "names", None)
    else:
        names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple):
        return ()
    return tuple(", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in names)
