"""Find out which kind of image collection a path is, and open it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lampq_onnx.data.coco import ANNOTATIONS, open_coco
from lampq_onnx.data.folders import open_folder
from lampq_onnx.data.label_table import TABLE, open_table
from lampq_onnx.data.listed_files import listed_of
from lampq_onnx.data.npz import open_npz
from lampq_onnx.data.source import ImageSource
from lampq_onnx.data.targets import open_with_numbers
from lampq_onnx.disk.files import shortened
from lampq_onnx.errors import LampqError

_FORMS = (
    "give a folder with labels.csv, a folder of class folders, a folder of images, a .csv table, an .npz, .parquet or "
    ".tar file, a folder of those, or a COCO annotation file (.json)"
)


LabelKind = Literal["classes", "numbers", "none"]
"""How labels are read: as classes, as real numbers (`ImageSource.targets`), or not at all."""


def open_source(
    path: Path,
    *,
    num_classes: int | None,
    need_labels: bool,
    class_names: Sequence[str] = (),
    labels: LabelKind = "classes",
) -> ImageSource:
    """Open images for reading one at a time.

    Args:
        path: a folder with labels.csv, or any .csv of that form; a folder of class folders; a flat folder of images (no
            labels); an .npz file; a .parquet file, .tar shard (webdataset), or a folder of either; a folder that
            `datasets` wrote with save_to_disk; or images with boxes (no labels): a COCO annotation file, or a folder
            with annotations.json.
        num_classes: the model's number of classes, against which labels are checked; None checks only the sign.
        need_labels: whether labels are used: a collection without them is then an error. Otherwise the labels of a
            table or an .npz file are not read, so mistakes in them do not matter.
        class_names: the model's own class names, in its order, for a table whose labels are names.
        labels: how labels are read; as numbers, class folders give the positions of the folders.

    Raises:
        LampqError: the path is missing or of no such form, or see `open_table`, `open_folder`, `open_npz` and
            `open_coco`. Images are not decoded here; `ImageSource.image` reports unreadable ones.
    """
    path = Path(path)
    require_exists(path)
    if path.suffix.lower() == ".json" or os.path.lexists(path / ANNOTATIONS):
        if need_labels:
            raise LampqError(f"{path} holds boxes, but class labels are needed here", hint="run with --task detection")
        return open_coco(path)
    listed = listed_of(path)
    if listed is not None:
        if labels == "numbers":
            return listed.with_numbers()
        wanted = need_labels and labels == "classes"
        return listed.with_classes(num_classes, need_labels=wanted, class_names=class_names)
    if labels == "numbers":
        return open_with_numbers(path)
    if path.suffix.lower() == ".csv" and os.path.isfile(path):
        return open_table(
            path.parent, num_classes=num_classes, need_labels=need_labels, class_names=class_names, table=path.name
        )
    if os.path.isdir(path):
        if os.path.lexists(path / TABLE):
            return open_table(path, num_classes=num_classes, need_labels=need_labels, class_names=class_names)
        found = open_folder(path, num_classes=num_classes, need_labels=need_labels)
        return replace(found, labels=None) if labels == "none" else found
    if path.suffix.lower() == ".npz" and os.path.isfile(path):
        return open_npz(path, num_classes=num_classes, need_labels=need_labels)
    raise LampqError(f"{path} is neither a folder nor a file of images that can be read", hint=_FORMS)


def require_exists(path: Path) -> None:
    """Raise an error if a path does not exist.

    Raises:
        LampqError: nothing is there; names the path, and the forms that can be read.
    """
    # os.path answers False for paths that make pathlib raise (a name that is too long, a null byte).
    if not os.path.exists(path):
        raise LampqError(f"no images are at {shortened(path)}: there is no such file or folder", hint=_FORMS)
