"""Folders without a label table: one folder per class, or images side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lampq_onnx.data.decoding import EXTENSIONS, is_image_name
from lampq_onnx.data.source import FileReader, ImageSource
from lampq_onnx.errors import LampqError

_FORMS = "use class/*.jpg folders, or a labels.csv with the header path,label"


def open_folder(folder: Path, *, num_classes: int | None, need_labels: bool) -> ImageSource:
    """Open class folders or a flat folder. Names that start with a dot and links to folders are skipped.

    The sorted names of the class folders are the labels 0, 1, ..., empty ones included. When labels are not
    needed and their number is not ``num_classes``, the folders are not the model's classes, and the
    source has no labels.

    Raises:
        LampqError: there are no images, there are images both beside and inside folders, or labels are needed but there
            are none or not ``num_classes`` class folders.
    """
    try:
        classes, loose = _entries(folder)
        files, labels = _walk_classes(folder, classes)
    except OSError as error:
        where = error.filename or folder
        raise LampqError(f"cannot read the folder {where}: {error.strerror or error}") from error
    if not files and not loose:
        empty = not any(folder.iterdir())
        raise LampqError(
            f"the folder {folder} is empty" if empty else f"there are no images in the folder {folder}",
            hint=f"known extensions: {', '.join(EXTENSIONS)}; {_FORMS}",
        )
    if files and loose:
        raise LampqError(
            f"{folder} holds images both directly ({loose[0]}) and in folders ({files[0]})",
            hint=f"move them so that one form remains: {_FORMS}",
        )
    if loose:
        if need_labels:
            raise LampqError(f"the images in {folder} have no labels, which are needed here", hint=_FORMS)
        return ImageSource.whole(FileReader(folder, loose), len(loose), None, f"{len(loose)} images in {folder}")
    known = num_classes is None or len(classes) == num_classes
    if need_labels and not known:
        raise LampqError(
            f"{folder} has {len(classes)} class folders, but the model has {num_classes} classes",
            hint="write a labels.csv (header path,label) there that gives each image its class index; "
            "links to folders and hidden folders are not counted",
        )
    description = f"{len(files)} images in {len(classes)} class folders of {folder}"
    array = np.array(labels, dtype=np.int64) if known else None
    return ImageSource.whole(FileReader(folder, files), len(files), array, description)


def _entries(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """List the sorted names of the folders and of the image files directly in ``folder``."""
    classes: list[str] = []
    loose: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                classes.append(entry.name)
            elif is_image_name(entry.name) and entry.is_file():
                loose.append(entry.name)
    return sorted(classes), tuple(sorted(loose))


def _walk_classes(folder: Path, classes: list[str]) -> tuple[tuple[str, ...], list[int]]:
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(_images_below(folder, name))
        files += found
        labels += [label] * len(found)
    return tuple(files), labels


def _images_below(root: Path, name: str) -> Iterator[str]:
    # os.walk does not follow links to folders by default, so a link that points upwards cannot make it endless.
    for where, folders, files in os.walk(root / name, onerror=_raise):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for file in files:
            path = Path(where, file)
            if is_image_name(file) and not file.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error
