"""A cache of arrays that are expensive to compute, in the user's cache folder.

An entry's name is a hash of everything that its arrays depend on. The cache never makes a run fail: a damaged entry is
computed again, and if the folder cannot be used, the work is done without it. Both are logged as warnings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import safetensors.numpy
from numpy.typing import NDArray

from lampq_onnx.disk.files import write_atomic
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError

FOLDER_VARIABLE = "LAMPQ_ONNX_CACHE"
"""Environment variable with the path of the cache folder."""

LIMIT = 8 * 2**30
"""Size limit of the cache in bytes; above it, the oldest entries are removed."""

_SUFFIX = ".arrays"
_XDG_VARIABLE = "XDG_CACHE_HOME"
_NAME = "lampq-onnx"
_MAGIC = b"lampq-onnx cache 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CacheEntry:
    """One file of the cache.

    Attributes:
        path: the file.
        bytes: its size.
        written: time of writing, in seconds since the epoch.
    """

    path: Path
    bytes: int
    written: float


def cache_folder() -> Path | None:
    """Return $LAMPQ_ONNX_CACHE, or else the user's cache folder of the system; None without a home folder.

    The system's folder is $XDG_CACHE_HOME/lampq-onnx or ~/.cache/lampq-onnx on Linux, ~/Library/Caches/lampq-onnx on
    macOS and %LOCALAPPDATA%/lampq-onnx/Cache on Windows. If an earlier version made ~/.cache/lampq-onnx and the
    system's folder does not exist, the former stays in use. A relative $XDG_CACHE_HOME is ignored, as the XDG base
    directory specification requires.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own).expanduser()
    found = platformdirs.user_cache_path(_NAME, appauthor=False)
    shared = Path(os.environ.get(_XDG_VARIABLE, ""))
    if shared.is_absolute() and found.is_relative_to(shared):
        return found
    try:
        earlier = Path.home() / ".cache" / _NAME
    except RuntimeError:
        return None
    if not found.is_absolute() or (earlier.is_dir() and not found.exists()):
        return earlier
    return found


def cache_key(kind: str, *, weights_sha256: str, options: Record, inputs: Record, **more: str) -> str:
    """Return the name of an entry: a sha256 over everything that its arrays depend on, and the package's version.

    Args:
        kind: what computes the arrays; change it if the computation changes.
        weights_sha256: hash of the model's weights, see `ModelIdentity`.
        options: options of the computation.
        inputs: form of the model's input (size, channels, normalization).
        more: everything else that matters.
    """
    parts = {
        "kind": kind,
        "weights": weights_sha256,
        "options": options.model_dump(mode="json"),
        "inputs": inputs.model_dump(mode="json"),
        "more": more,
        "version": metadata.version("lampq-onnx"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ArrayCache:
    """Named arrays by key, one file per entry.

    Args:
        folder: the cache folder; it is made on the first write. None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls) -> ArrayCache:
        """Open the cache in `cache_folder`."""
        return cls(cache_folder())

    def get(self, key: str) -> Arrays | None:
        """Return the arrays of an entry, read-only; None if it is missing, damaged or unreadable."""
        path = self._path(key)
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("the cache entry %s cannot be read (%s); it is computed again", path, error.strerror or error)
            return None
        arrays = _unpack(key, data)
        if arrays is None:
            _log.warning("the cache entry %s is damaged; it is computed again", path)
        return arrays

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays; an entry appears whole or not at all, and replaces an earlier one."""
        path = self._path(key)
        if path is None:
            _log.warning("there is no cache folder; set %s to one to keep results between runs", FOLDER_VARIABLE)
            return
        try:
            write_atomic(path, _pack(key, arrays))
            self._make_room()
        except (OSError, LampqError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
            _log.warning(
                "the cache folder %s cannot be written (%s), so the next run starts over; set %s to another folder",
                self.folder,
                reason,
                FOLDER_VARIABLE,
            )

    def remove(self, key: str) -> None:
        """Remove an entry, if it exists."""
        path = self._path(key)
        if path is not None:
            path.unlink(missing_ok=True)

    def entries(self) -> list[CacheEntry]:
        """List all entries, the most recently written last."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = [(path, path.stat()) for path in self.folder.glob(f"*{_SUFFIX}")]
        return sorted((CacheEntry(p, s.st_size, s.st_mtime) for p, s in found), key=lambda entry: entry.written)

    def clear(self) -> int:
        """Remove all entries; return the number of freed bytes."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        return sum(entry.bytes for entry in entries)

    def _make_room(self) -> None:
        """Remove the oldest entries if all entries together are larger than LIMIT."""
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries[:-1]:
            if total <= LIMIT:
                return
            entry.path.unlink(missing_ok=True)
            total -= entry.bytes

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}{_SUFFIX}"


def _pack(key: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    payload = safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    return _MAGIC + _digest(key, payload) + payload


def _unpack(key: str, data: bytes) -> Arrays | None:
    head = len(_MAGIC) + _DIGEST_BYTES
    payload = data[head:]
    if data[:head] != _MAGIC + _digest(key, payload):
        return None
    arrays: Arrays = safetensors.numpy.load(payload)
    return arrays


def _digest(key: str, payload: bytes) -> bytes:
    # The key is hashed too, so that an entry under another name is noticed.
    return hashlib.sha256(key.encode() + b"\n" + payload).digest()
