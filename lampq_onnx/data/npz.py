"""Images stored as arrays in an .npz file."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from lampq_onnx.data.decoding import Pixels
from lampq_onnx.data.source import ImageSource, Labels
from lampq_onnx.errors import LampqError

_LAYOUT = "save images as uint8 (N,H,W,C) with the model's number of channels, or (N,H,W), and labels as integers (N,)"
_COPY_CHUNK = 1 << 20
_LABEL_BYTES = 8


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images in a mapped uint8 array of shape (n, h, w) or (n, h, w, channels).

    Grayscale and RGB are read as Pillow images, any other number of channels as an array.
    """

    file: str
    images: NDArray[np.uint8] = field(repr=False)

    def image(self, position: int) -> Pixels:
        """Copy one image out of the array."""
        pixels = np.array(self.images[position], order="C")
        return Image.fromarray(pixels) if pixels.ndim == 2 or pixels.shape[2] == 3 else pixels

    def name(self, position: int) -> str:
        """Return the file's name and the position in it."""
        return f"{self.file}[{position}]"


def open_npz(path: Path, *, num_classes: int | None, need_labels: bool) -> ImageSource:
    """Open the arrays ``images`` and ``labels`` of an .npz file; nothing in it is unpickled.

    The images are unpacked once into an unnamed temporary file and mapped from there, so memory does not grow
    with their number. Labels are only read if they are needed.

    Raises:
        LampqError: the file is unreadable or damaged, a key is missing, an array has another dtype or shape, the
            lengths differ, or a label (its row is named) is not a class index.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            for key in ("images", "labels") if need_labels else ("images",):
                if key not in keys:
                    raise LampqError(f"{path} has no array {key!r} (it has: {', '.join(keys) or 'none'})", hint=_LAYOUT)
            images = _map_images(path, archive)
        labels = _read_labels(path, len(images), num_classes) if need_labels else None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, RuntimeError) as error:
        raise LampqError(f"{path} is not a usable .npz file: {error}", hint=_LAYOUT) from error
    except OSError as error:
        raise LampqError(
            f"cannot read {path} or unpack it into {tempfile.gettempdir()}: {error.strerror or error}",
            hint="free some space there, or set TMPDIR to another folder",
        ) from error
    return ImageSource.whole(ArrayReader(path.name, images), len(images), labels, f"{len(images)} images in {path}")


def _map_images(path: Path, archive: zipfile.ZipFile) -> NDArray[np.uint8]:
    with archive.open("images.npy") as member, tempfile.TemporaryFile() as unpacked:
        shape, fortran, dtype = _header(member)
        _require_layout(path, shape, dtype)
        size, claimed = archive.getinfo("images.npy").file_size - member.tell(), math.prod(shape)
        if size != claimed:
            raise ValueError(f"images has {size} bytes for the shape {shape}, which needs {claimed}")
        # Reading to the end also checks the CRC of the member.
        shutil.copyfileobj(member, unpacked, _COPY_CHUNK)
        unpacked.flush()
        images = np.memmap(unpacked, np.uint8, "r", shape=shape, order="F" if fortran else "C")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"images has the array format version {version}")


def _require_layout(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8:
        raise LampqError(f"{path}: images has the dtype {dtype}, not uint8", hint=_LAYOUT)
    if len(shape) not in (3, 4):
        raise LampqError(f"{path}: images has the shape {shape}", hint=_LAYOUT)
    if min(shape) < 1:
        raise LampqError(f"{path} holds no images: images has the shape {shape}", hint=_LAYOUT)
    if Image.MAX_IMAGE_PIXELS is not None and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
        raise LampqError(
            f"{path}: each image has {shape[1] * shape[2]} pixels; the limit is {Image.MAX_IMAGE_PIXELS}",
            hint="scale the images down",
        )


def _read_labels(path: Path, count: int, num_classes: int | None) -> Labels:
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("labels.npy").file_size
        if size > _LABEL_BYTES * (count + 1024):
            raise ValueError(f"labels has {size} bytes for {count} images")
    with np.load(path, allow_pickle=False) as arrays:
        labels: NDArray[Any] = arrays["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise LampqError(
            f"{path}: labels has the dtype {labels.dtype} and the shape {labels.shape}, not integers (N,)",
            hint=_LAYOUT,
        )
    if len(labels) != count:
        raise LampqError(f"{path} has {count} images and {len(labels)} labels", hint="save one label per image")
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes - 1
    wrong = np.flatnonzero((labels < 0) | (labels > limit))
    if wrong.size:
        row = int(wrong[0])
        outside = "negative" if labels[row] < 0 else f"not below the model's {limit + 1} classes"
        raise LampqError(
            f"{path}: labels[{row}] is {labels[row]}, which is {outside}",
            hint="labels are class indices from 0",
        )
    return labels.astype(np.int64)
