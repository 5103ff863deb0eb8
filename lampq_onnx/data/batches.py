"""Turn images into model inputs, one batch at a time."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lampq_onnx.data.preprocessing import Preprocessing
from lampq_onnx.data.source import ImageSource, Labels, Targets
from lampq_onnx.errors import LampqError, UsageError

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of consecutive images.

    Attributes:
        images: float32 (n, c, h, w), normalized.
        labels: int64 (n,), or None if they are not known.
        start: position of the first image in the whole sequence.
        targets: float64 (n, ...), real numbers for each image, or None if they are not known.
    """

    images: NDArray[np.float32]
    labels: Labels | None
    start: int
    targets: Targets | None = None


@dataclass(frozen=True, eq=False)
class CropView:
    """Consecutive crops in a file; valid while the `CroppedImages` that it comes from is open.

    Attributes:
        file: uint8 crops, one after the other.
        first: index of the first crop of the view.
        count: number of crops.
        labels: int64 (count,) or None.
        preprocessing: how the crops were made and how they are normalized.
        made: see `ImageSource`.
    """

    file: Path
    first: int
    count: int
    labels: Labels | None
    preprocessing: Preprocessing
    made: bool = False

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def slice(self, start: int, stop: int) -> CropView:
        """Return the crops ``start`` to ``stop`` (exclusive) of this view, clipped like a list; copies nothing."""
        start, stop, _ = slice(start, stop).indices(self.count)
        labels = None if self.labels is None else self.labels[start:stop]
        return CropView(self.file, self.first + start, max(0, stop - start), labels, self.preprocessing, self.made)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return normalized batches in order; the last may be smaller. ``start`` counts within this view.

        Raises:
            UsageError: ``batch_size`` is not positive.
        """
        _require_positive(batch_size)
        return (self._batch(start, batch_size) for start in range(0, self.count, batch_size))

    def _batch(self, start: int, batch_size: int) -> Batch:
        size = min(batch_size, self.count - start)
        shape = (size, *self.preprocessing.size, self.preprocessing.channels)
        offset = (self.first + start) * math.prod(shape[1:])
        # Only this range is mapped, and only until it is normalized: memory holds just one batch.
        crops = np.memmap(self.file, np.uint8, "r", offset=offset, shape=shape)
        labels = None if self.labels is None else self.labels[start : start + size]
        return Batch(self.preprocessing.normalize(crops), labels, start)


class CroppedImages:
    """The crops of a source in a temporary file, made once on entry and removed on exit.

    Args:
        source: the images.
        preprocessing: how they are cropped and normalized.
        progress: called after each image with the number done so far.
        folder: where the temporary folder is made; default: the system's folder.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        *,
        progress: Progress | None = None,
        folder: Path | None = None,
    ) -> None:
        """Keep the arguments; the work happens on entry."""
        self.source = source
        self.preprocessing = preprocessing
        self._progress = progress
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._view: CropView | None = None

    def __enter__(self) -> Self:
        """Crop every image of the source.

        Raises:
            LampqError: an image cannot be read or cropped, or the temporary folder is not writable or full.
        """
        try:
            self._temporary = tempfile.TemporaryDirectory(prefix="lampq-", dir=self._folder)
            file = Path(self._temporary.name, "crops.u8")
            self._write(file)
        except OSError as error:
            self._clean()
            raise LampqError(
                f"cannot store {len(self.source)} cropped images in {self._folder or tempfile.gettempdir()}: "
                f"{error.strerror or error}",
                hint="free some space there, or set TMPDIR to another folder",
            ) from error
        except BaseException:
            self._clean()
            raise
        self._view = CropView(file, 0, len(self.source), self.source.labels, self.preprocessing, self.source.made)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the temporary crops."""
        self._clean()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    @property
    def labels(self) -> Labels | None:
        """Labels of the source, int64 (n,), or None."""
        return self.source.labels

    @property
    def made(self) -> bool:
        """Whether the images were made from the model."""
        return self.source.made

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return normalized batches in order, see `CropView.batches`."""
        return self._opened().batches(batch_size)

    def slice(self, start: int, stop: int) -> CropView:
        """Return consecutive images, see `CropView.slice`."""
        return self._opened().slice(start, stop)

    def sha256(self) -> str:
        """Hash every pixel of the crops, their size, the labels, and whether a model made them."""
        view = self._opened()
        digest = hashlib.sha256(
            f"{len(self)} {self.preprocessing.size} {self.preprocessing.channels} {self.made}".encode()
        )
        with view.file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        digest.update(b"" if self.labels is None else np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def _opened(self) -> CropView:
        if self._view is None:
            raise RuntimeError("CroppedImages is used outside its with block")
        return self._view

    def _write(self, file: Path) -> None:
        # Plain writes instead of a writable mapping: a full disk is then an OSError, not a bus error.
        with file.open("wb") as stream:
            for i in range(len(self.source)):
                stream.write(_crop(self.source, i, self.preprocessing).data)
                if self._progress is not None:
                    self._progress(i + 1)

    def _clean(self) -> None:
        self._view = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def iter_batches(
    source: ImageSource, preprocessing: Preprocessing, batch_size: int, *, progress: Progress | None = None
) -> Iterator[Batch]:
    """Read, crop and normalize a source once, keeping nothing.

    Args:
        source: the images.
        preprocessing: how they are cropped and normalized.
        batch_size: images per batch; the last may be smaller.
        progress: called after each batch with the number of images done so far.

    Raises:
        UsageError: ``batch_size`` is not positive.
        LampqError: while iterating: an image cannot be read or cropped.
    """
    _require_positive(batch_size)
    return _stream(source, preprocessing, batch_size, progress)


def _stream(
    source: ImageSource, preprocessing: Preprocessing, batch_size: int, progress: Progress | None
) -> Iterator[Batch]:
    for start in range(0, len(source), batch_size):
        stop = min(start + batch_size, len(source))
        crops = np.stack([_crop(source, i, preprocessing) for i in range(start, stop)])
        labels = None if source.labels is None else source.labels[start:stop]
        targets = None if source.targets is None else source.targets[start:stop]
        if progress is not None:
            progress(stop)
        yield Batch(preprocessing.normalize(crops), labels, start, targets)


def _crop(source: ImageSource, i: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    image = source.image(i)
    try:
        return preprocessing.crop(image)
    except LampqError as error:
        raise LampqError(f"cannot use the image {source.name(i)}: {error.message}", hint=error.hint) from error


def _require_positive(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, not {batch_size}")
