"""Images with boxes in COCO format: an annotation file and a folder of images."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lampq_onnx.data.objects import ImageObjects, Objects
from lampq_onnx.data.source import FileReader, ImageSource
from lampq_onnx.disk.wording import explain
from lampq_onnx.errors import LampqError

ANNOTATIONS = "annotations.json"
"""Name of the annotation file in a folder that also holds its images."""

_LAYOUT = (
    "the file needs images (id, file_name, width, height), annotations (image_id, category_id, bbox) and categories "
    "(id, name), as in COCO"
)


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Image(_Lenient):
    id: int
    file_name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class _Annotation(_Lenient):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class _Category(_Lenient):
    id: int
    name: str


class _File(_Lenient):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def open_coco(path: Path) -> ImageSource:
    """Open an annotation file, or a folder that holds one.

    Images of ``x/annotations/instances_val2017.json`` are searched in ``x/val2017`` and ``x/images/val2017``,
    images of any other file beside it and in ``images`` beside it.

    Args:
        path: a .json file, or a folder with `ANNOTATIONS` and the images, or a folder ``images`` of them.

    Raises:
        LampqError: the file is unreadable or in another format, an annotation names an image or a category that is not
            listed, a box has no extent, or images are missing.
    """
    file = path / ANNOTATIONS if path.is_dir() else path
    content = _read(file)
    if not content.images:
        raise LampqError(f"{file} lists no images", hint=_LAYOUT)
    folder = _image_folder(file, content.images)
    categories = {category.id: category.name for category in content.categories}
    by_image: dict[int, list[_Annotation]] = defaultdict(list)
    known = {image.id for image in content.images}
    if len(known) != len(content.images):
        raise LampqError(f"{file}: two images have the same id")
    for index, annotation in enumerate(content.annotations):
        where = f"{file}: annotations[{index}]"
        if annotation.image_id not in known:
            raise LampqError(f"{where} belongs to image {annotation.image_id}, which the file does not list")
        if annotation.category_id not in categories:
            raise LampqError(f"{where} has category {annotation.category_id}, which the file does not list")
        if min(annotation.bbox[2:]) <= 0:
            raise LampqError(
                f"{where} has the box {list(annotation.bbox)}, which has no extent",
                hint="boxes are left, top, width, height in pixels",
            )
        by_image[annotation.image_id].append(annotation)
    objects = Objects(categories, tuple(_objects(image, by_image[image.id]) for image in content.images))
    reader = FileReader(folder, tuple(image.file_name for image in content.images))
    count = len(content.images)
    description = f"{count} images with {len(content.annotations)} boxes in {file}"
    return ImageSource(reader, np.arange(count, dtype=np.int64), None, description, objects=objects)


def _read(file: Path) -> _File:
    try:
        data: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise LampqError(f"cannot read {file}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LampqError(f"{file} is not JSON: {error}", hint=_LAYOUT) from error
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise LampqError(f"{file}: {where}: {explain([problem])}", hint=_LAYOUT) from error


def _image_folder(file: Path, images: list[_Image]) -> Path:
    part = file.stem.removeprefix("instances_")
    places = [file.parent / "images", file.parent]
    if part != file.stem:
        places = [file.parent.parent / part, file.parent.parent / "images" / part, *places]
    for place in places:
        if os.path.exists(place / images[0].file_name):
            missing = next((image for image in images if not os.path.exists(place / image.file_name)), None)
            if missing is not None:
                raise LampqError(f"{file} lists {missing.file_name}, but it is not in {place}")
            return place
    raise LampqError(
        f"the images of {file} are not found: there is no {images[0].file_name} in "
        + ", ".join(str(place) for place in places)
    )


def _objects(image: _Image, annotations: list[_Annotation]) -> ImageObjects:
    boxes = np.array([a.bbox for a in annotations], dtype=np.float64).reshape(-1, 4)
    areas = [float(b[2] * b[3]) if a.area is None else a.area for a, b in zip(annotations, boxes, strict=True)]
    return ImageObjects(
        size=(image.height, image.width),
        boxes=boxes,
        categories=np.array([a.category_id for a in annotations], dtype=np.int64),
        areas=np.array(areas, dtype=np.float64),
        crowds=np.array([a.iscrowd != 0 for a in annotations], dtype=np.bool_),
    )
