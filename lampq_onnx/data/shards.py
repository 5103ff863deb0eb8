"""Images in tar files, as webdataset writes them: the files of one sample share the part of the name before a dot."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lampq_onnx.data.decoding import Pixels, decode_bytes, is_image_name
from lampq_onnx.data.listed import LABEL_COLUMNS, Listed, label_text
from lampq_onnx.errors import LampqError

SHARD = ".tar"

_LABELS = ("cls", "label", "json")
"""Endings of files that hold a label, the first one of a sample counts."""

_LABEL_LIMIT = 1 << 20


@dataclass(frozen=True)
class Member:
    """An image file inside a tar file."""

    shard: Path
    name: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Image files inside tar files, read where they lie."""

    members: tuple[Member, ...] = field(repr=False)

    def image(self, position: int) -> Pixels:
        """Decode one image file."""
        member = self.members[position]
        try:
            with member.shard.open("rb") as stream:
                stream.seek(member.offset)
                data = stream.read(member.size)
        except OSError as error:
            raise LampqError(f"cannot read {self.name(position)}: {error.strerror or error}") from error
        return decode_bytes(data, self.name(position))

    def name(self, position: int) -> str:
        """Return the tar file and the name inside it."""
        member = self.members[position]
        return f"{member.shard}/{member.name}"


def open_shards(path: Path) -> Listed:
    """Open a tar file, or all tar files of a folder, sorted by name.

    A sample is an image file, and optionally a file ``.cls`` (or ``.label``) with the text of its label, or ``.json``
    with a key ``label``. Compressed tar files are refused: their images cannot be read one at a time.

    Raises:
        LampqError: a file is no plain tar file, there are no images, or only some of them have labels.
    """
    shards = sorted(path.glob(f"*{SHARD}")) if path.is_dir() else [path]
    members: list[Member] = []
    labels: list[tuple[str, str]] = []
    for shard in shards:
        for member, label in _samples(shard):
            members.append(member)
            if label is not None:
                labels.append((f"{shard}/{member.name}", label))
    if not members:
        raise LampqError(f"there are no images in {path}", hint="samples are files such as 0001.jpg and 0001.cls")
    if labels and len(labels) != len(members):
        raise LampqError(
            f"{len(labels)} of {len(members)} images in {path} have labels",
            hint="give all of them a .cls file, or none",
        )
    reader, folder = ShardReader(tuple(members)), path if path.is_dir() else path.parent
    return Listed(reader, len(members), labels or None, (), folder, f"{len(members)} images in {path}")


def _samples(shard: Path) -> Iterator[tuple[Member, str | None]]:
    """Images of a tar file with their labels, in its order."""
    images: dict[str, Member] = {}
    labels: dict[str, tuple[int, str]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                folder, _, file = info.name.rpartition("/")
                stem, _, ending = file.partition(".")
                key = f"{folder}/{stem}"
                if not info.isfile() or not stem:
                    continue
                if is_image_name(file) and key not in images:
                    images[key] = Member(shard, info.name, info.offset_data, info.size)
                elif ending in _LABELS and info.size <= _LABEL_LIMIT:
                    stream = archive.extractfile(info)
                    text = _label(stream.read() if stream else b"", ending)
                    rank = _LABELS.index(ending)
                    if text is not None and rank <= labels.get(key, (rank, ""))[0]:
                        labels[key] = (rank, text)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise LampqError(f"cannot read the tar file {shard}: {error}", hint="it has to be uncompressed") from error
    for key, member in images.items():
        yield member, labels[key][1] if key in labels else None


def _label(data: bytes, ending: str) -> str | None:
    """The text of a label; None if a .json holds none."""
    text = data.decode("utf-8", "replace").strip()
    if ending != "json":
        return text
    try:
        values = json.loads(text)
    except ValueError:
        return None
    name = next((name for name in LABEL_COLUMNS if isinstance(values, dict) and name in values), None)
    return None if name is None else label_text(values[name])
