"""Reads the file of a checkpoint. Its content, not its suffix, tells the format, and no code in it is run."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from lampq_onnx.disk.files import PATH_HINT, read_text, reason_of, shortened
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints.refusals import foreign, refused_pickle, unlike_torch, unreadable
from lampq_onnx.frontend.models.checkpoints.safe_types import stand_ins

_HEAD = 512
_ZIP_MAGIC = b"PK"
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch's older format, which tell it from other pickles."""

_LENGTH_BYTES = 8
"""Bytes before the header of a safetensors file."""

_INDEX_KEY, _INDEX_LIMIT = "weight_map", 64 * 2**20


def read_container(path: Path) -> object:
    """Read the content of a checkpoint: tensors in dicts and lists, as stored in the file.

    Args:
        path: a safetensors file, the index of several (``*.index.json``), or a file written by torch.save.

    Raises:
        LampqError: the file is missing, damaged, of another format, or names types that are not known to be harmless.
    """
    head, size = _head(path)
    if _is_safetensors(head, size):
        return _read_safetensors(path)
    if head.startswith(b"{"):
        return _read_shards(path)
    return _read_file(path, head)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins with a length that fits in it, and a JSON header.

    The length comes first, and may look like the first bytes of any other format.
    """
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:_LENGTH_BYTES])
    return bool(_LENGTH_BYTES + length <= size)


def _head(path: Path) -> tuple[bytes, int]:
    if path.is_dir():
        raise LampqError(f"the checkpoint {shortened(path)} is a folder", hint="give the file with the weights in it")
    if not path.is_file():
        raise LampqError(f"no such checkpoint: {shortened(path)}", hint=PATH_HINT)
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD), path.stat().st_size
    except OSError as error:
        raise unreadable(path, reason_of(error), "check its permissions") from error


def _read_file(path: Path, head: bytes) -> object:
    if head.startswith(_ZIP_MAGIC):
        return _read_zip(path)
    if head[:1] == b"\x80":
        return _read_older(path, head)
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        return _read_safetensors(path)  # it is longer than the file: safetensors says so
    raise foreign(path, head)


def _read_safetensors(path: Path) -> object:
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:  # the reader raises its own types and those of torch
        raise unreadable(path, f"as safetensors: {error}", "the file is damaged or cut short") from error


def _read_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise unreadable(path, "the end of its zip archive is missing", "the file is damaged or cut short") from error
    problem = unlike_torch(path, names)
    if problem is not None:
        raise problem
    return _load(path)


def _read_older(path: Path, head: bytes) -> object:
    """Read a file of torch.save before its zip format, or with _use_new_zipfile_serialization=False."""
    if not head.startswith(_TORCH_MAGIC):
        raise unreadable(
            path,
            "it is a pickle that torch.save did not write",
            "pickles can run any code; if you trust the file, save its tensors again with torch.save",
        )
    return _load(path)


def _load(path: Path) -> object:
    try:
        with (
            torch.serialization.safe_globals(stand_ins()),
            warnings.catch_warnings(),
            path.open("rb") as stream,  # given a path, torch would look at the suffix
        ):
            warnings.simplefilter("ignore")  # they concern protocols and versions; real problems are raised
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and the operating system each raise their own types
        raise refused_pickle(path, error) from error


def _read_shards(path: Path) -> dict[str, object]:
    """Read the tensors of all files that an index names."""
    try:
        index = json.loads(read_text(path, "the checkpoint", limit=_INDEX_LIMIT))
    except (ValueError, RecursionError) as error:
        raise unreadable(path, f"it is not valid JSON: {error}", "the file is damaged or cut short") from error
    places = index.get(_INDEX_KEY) if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise unreadable(
            path,
            f"it is JSON without {_INDEX_KEY!r}, which lists the file of each tensor",
            "give the file with the weights",
        )
    found: dict[str, object] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise unreadable(
                path, f"it names {file!r}, which is not a file in its folder", "give the whole checkpoint folder"
            )
        shard = path.with_name(file)
        tensors = _read_file(shard, _head(shard)[0])
        if not isinstance(tensors, Mapping):
            raise unreadable(shard, "it holds no tensors by name", "give the whole checkpoint folder")
        wanted = [name for name, place in places.items() if place == file]
        lacking = [name for name in wanted if name not in tensors]
        if lacking:
            raise unreadable(shard, f"it lacks {lacking[0]}, which {path.name} says it has", "copy all files again")
        found.update((name, tensors[name]) for name in wanted)
    return found
