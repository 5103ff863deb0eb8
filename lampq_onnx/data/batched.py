"""Images given by Python code: batches of a DataLoader, or of any iterable of numpy arrays."""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from lampq_onnx.data.batches import Batch, iter_batches
from lampq_onnx.data.preprocessing import Preprocessing
from lampq_onnx.data.source import ImageSource, Labels, Targets
from lampq_onnx.errors import LampqError

PEEKED = 16
"""Number of batches whose labels are read before a model's task is known."""


@dataclass(frozen=True)
class BatchedView:
    """Consecutive images of a `BatchedImages`."""

    file: Path
    first: int
    count: int
    labels: Labels | None
    shape: tuple[int, int, int]
    targets: Targets | None = None

    @property
    def made(self) -> bool:
        """False: the images are not made from the model."""
        return False

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def slice(self, start: int, stop: int) -> BatchedView:
        """Return the images from ``start`` to ``stop``, exclusive."""
        start, stop, _ = slice(start, stop).indices(self.count)
        labels = None if self.labels is None else self.labels[start:stop]
        targets = None if self.targets is None else self.targets[start:stop]
        return BatchedView(self.file, self.first + start, max(0, stop - start), labels, self.shape, targets)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return the batches in order; the last may be smaller."""
        for start in range(0, self.count, batch_size):
            size = min(batch_size, self.count - start)
            offset = 4 * (self.first + start) * math.prod(self.shape)
            images = np.array(np.memmap(self.file, np.float32, "r", offset=offset, shape=(size, *self.shape)))
            labels = None if self.labels is None else self.labels[start : start + size]
            targets = None if self.targets is None else self.targets[start : start + size]
            yield Batch(images, labels, start, targets)


class BatchedImages:
    """Batches stored in a temporary file: they are read once on entry, and the file is removed on exit.

    Args:
        batches: each one a float32 array or tensor (n, c, h, w), normalized as the model takes it, or a pair of that
            and labels: class indices (n,), or real numbers (n, ...).
        preprocessing: gives the shape of an image; the images are assumed to be preprocessed this way.
        most: maximum number of images; None: all.
        name: what messages call the images.
    """

    def __init__(
        self, batches: Iterable[object], preprocessing: Preprocessing, *, most: int | None = None, name: str = "images"
    ) -> None:
        self.preprocessing = preprocessing
        self._batches = batches
        self._most = most
        self._name = name
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._view: BatchedView | None = None

    def __enter__(self) -> Self:
        """Read all batches, once, to files on disk.

        Raises:
            LampqError: there are none, one has another shape, NaN or infinity, or the file cannot be written.
        """
        shape = (self.preprocessing.channels, *self.preprocessing.size)
        labels: list[npt.NDArray[np.int64 | np.float64]] = []
        count = 0
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="lampq-")
            file = Path(self._folder.name, "images.f32")
            with file.open("wb") as stream:
                for batch in self._batches:
                    images, own = self._checked(batch, shape)
                    room = len(images) if self._most is None else max(0, self._most - count)
                    stream.write(np.ascontiguousarray(images[:room]).data)
                    count += len(images[:room])
                    if own is not None:
                        labels.append(own[:room])
                    if self._most is not None and count >= self._most:
                        break
            if not count:
                raise LampqError(f"the {self._name} contain no batch")
            known = self._joined(labels)
            if known is not None and len(known) != count:
                raise LampqError(f"the {self._name}: some batches have labels and others have none")
        except OSError as error:
            self._clean()
            raise LampqError(
                f"cannot store the {self._name} in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="free some space there, or set TMPDIR to another folder",
            ) from error
        except BaseException:
            self._clean()
            raise
        classes = None if known is None or known.dtype.kind == "f" else known.astype(np.int64)
        numbers = None if known is None else known.astype(np.float64)
        self._view = BatchedView(file, 0, count, classes, shape, numbers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary file."""
        self._clean()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._opened())

    @property
    def labels(self) -> Labels | None:
        """Class labels, int64 (n,); None if there are none or they are real numbers."""
        return self._opened().labels

    @property
    def targets(self) -> Targets | None:
        """Labels as real numbers, float64 (n, ...), or None."""
        return self._opened().targets

    @property
    def made(self) -> bool:
        """False: the images are not made from the model."""
        return False

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return the batches in order, see `BatchedView.batches`."""
        return self._opened().batches(batch_size)

    def slice(self, start: int, stop: int) -> BatchedView:
        """Return consecutive images, see `BatchedView.slice`."""
        return self._opened().slice(start, stop)

    def name(self, i: int) -> str:
        """Return the name of image ``i`` for messages."""
        return f"{self._name}[{i}]"

    def pixels(self, i: int) -> npt.NDArray[np.uint8]:
        """Return image ``i`` as uint8 (h, w, c), with the normalization undone."""
        batch = next(self._opened().slice(i, i + 1).batches(1))
        pixels: npt.NDArray[np.uint8] = self.preprocessing.denormalize(batch.images)[0]
        return pixels

    def sha256(self) -> str:
        """Hash every number of the images, their shape, and the labels."""
        view = self._opened()
        digest = hashlib.sha256(f"float {len(view)} {view.shape}".encode())
        with view.file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        digest.update(b"" if view.labels is None else view.labels.tobytes())
        if view.labels is None and view.targets is not None:
            digest.update(view.targets.tobytes())
        return digest.hexdigest()

    def _checked(
        self, batch: object, shape: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64 | np.float64] | None]:
        images, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        values = np.asarray(images)
        if values.dtype.kind != "f" or values.ndim != 4 or values.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise LampqError(
                f"a batch of the {self._name} is {values.dtype} {values.shape}, not float32 (n, {wanted})",
                hint="give normalized images as the model takes them",
            )
        if not np.isfinite(values).all():
            raise LampqError(f"a batch of the {self._name} holds NaN or infinity")
        if labels is None:
            return values.astype(np.float32, copy=False), None
        known = np.asarray(labels)
        classes = known.dtype.kind in "iu" and known.ndim == 1
        if known.shape[:1] != (len(values),) or not (classes or known.dtype.kind == "f"):
            raise LampqError(
                f"labels of the {self._name} are {known.dtype} {known.shape}, not one class index or row of real "
                f"numbers for each of {len(values)} images"
            )
        return values.astype(np.float32, copy=False), known.astype(np.int64 if classes else np.float64)

    def _joined(self, labels: list[npt.NDArray[np.int64 | np.float64]]) -> npt.NDArray[np.int64 | np.float64] | None:
        if len({part.shape[1:] for part in labels}) > 1:
            raise LampqError(f"the {self._name}: the labels of two batches have different shapes")
        return np.concatenate(labels) if labels else None

    def _opened(self) -> BatchedView:
        if self._view is None:
            raise RuntimeError("BatchedImages is used outside its with block")
        return self._view

    def _clean(self) -> None:
        self._view = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def peeked_labels(batches: Iterable[object]) -> Targets | None:
    """Read the labels of the first batches as real numbers.

    None if there are no labels, or if a batch could not be read again.
    """
    if isinstance(batches, Iterator):
        return None
    pairs = [b for b in itertools.islice(batches, PEEKED) if isinstance(b, tuple | list) and len(b) == 2]
    found = [np.asarray(labels) for _, labels in pairs]
    if not found or len({part.shape[1:] for part in found}) > 1 or any(p.dtype.kind not in "iufb" for p in found):
        return None
    return np.concatenate(found).astype(np.float64)


def batches_of(source: ImageSource | BatchedImages, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Iterate once over normalized images of either kind of source."""
    if isinstance(source, BatchedImages):
        return source.batches(batch_size)
    return iter_batches(source, preprocessing, batch_size)
