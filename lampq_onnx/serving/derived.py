"""Files that were made from a result and lie beside it: packages, converted files, plans, reports.

When another result replaces it, packages are removed, and the other files get the suffix ``.stale``: they may hold a
person's work, and must not be mistaken for files of the new result. Files of other programs are never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from lampq_onnx.disk.files import MODEL_FILE
from lampq_onnx.disk.records import Artifact
from lampq_onnx.errors import UsageError
from lampq_onnx.graph.keys import PREFIX

PACKAGE_RECORD = "lampq-onnx.json"
"""File inside a package that records what it was made from."""

STALE = ".stale"

_OWN_FORMAT = '"format": "lampq-onnx/'
_HEAD = 4096
_PAGES = (".html", ".csv")
"""Suffixes of the files that commands write beside a .json file, under its name."""


class PackageRecord(Artifact):
    """Record of what a package was made from."""

    format: Literal["lampq-onnx/package"] = "lampq-onnx/package"
    version: Literal[1] = 1
    form: str
    source_sha256: str
    files: dict[str, str]


@dataclass(frozen=True)
class Derived:
    """Files beside a result that were made from it.

    Attributes:
        folder: folder of the result.
        model_sha256: hash of its model.onnx; None: there is none.
        packages: folders of packages.
        files: all other files that commands of this package wrote.
    """

    folder: Path
    model_sha256: str | None
    packages: tuple[Path, ...]
    files: tuple[Path, ...]

    def retire(self) -> list[str]:
        """Remove packages and mark files if the result has changed; return what was done, as sentences.

        Only unchanged files that the package was written with are removed.
        """
        if self.model_sha256 is not None and self.model_sha256 == file_sha256(self.folder / MODEL_FILE):
            return []
        return [*(remove_package(p) for p in self.packages), *(mark_stale(p) for p in self.files if p.exists())]


def find_derived(folder: Path, own: Collection[str]) -> Derived:
    """Find what was made from the result in ``folder``.

    Args:
        folder: folder of the result.
        own: names of the result's own files, which are replaced and not marked.
    """
    files = tuple(sorted(_files(folder, {*own, *(f"{name}.data" for name in own)})))
    model = folder / MODEL_FILE
    known = {file_sha256(path) for path in (model, *files) if path.suffix == ".onnx" and path.is_file()}
    return Derived(
        folder=folder,
        model_sha256=file_sha256(model) if model.is_file() else None,
        packages=tuple(path for path, record in _packages(folder) if record.source_sha256 in known),
        files=files,
    )


def mark_stale(path: Path) -> str:
    """Add the suffix that marks a file as older than the result beside it; return what was done, as a sentence."""
    number, target = 1, path.with_name(path.name + STALE)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{STALE}{number}")
    path.rename(target)
    return f"{path.name} was made from the earlier result: it is now called {target.name}"


def remove_package(folder: Path) -> str:
    """Remove the files that a package was written with, and emptied folders; return what was done, as a sentence."""
    record = PackageRecord.load(folder / PACKAGE_RECORD)
    paths = [folder / name for name in record.files]
    for path in paths:
        if path.is_file() and file_sha256(path) == record.files[str(path.relative_to(folder))]:
            path.unlink()
    (folder / PACKAGE_RECORD).unlink()
    for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(place.iterdir()):
            place.rmdir()
    if any(folder.iterdir()):
        return f"the package {folder} was made from the earlier result: its files were removed, other files in it stay"
    folder.rmdir()
    return f"the package {folder} was made from the earlier result, and was removed"


def require_unchanged(folder: Path) -> None:
    """Refuse to replace a package that a person has changed.

    Raises:
        UsageError: a file was added or changed since the package was written; the message names it.
    """
    record = PackageRecord.load(folder / PACKAGE_RECORD)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if name != PACKAGE_RECORD and record.files.get(name) != file_sha256(path):
            raise UsageError(
                f"{path} was added to the package {folder}, or changed, since it was written",
                hint="move it away, or name another folder with --output",
            )


def write_package_record(folder: Path, form: str, source: Path) -> None:
    """Record in a package what it was made from."""
    files = {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    PackageRecord(form=form, source_sha256=file_sha256(source), files=files).save(folder / PACKAGE_RECORD)


def is_package(folder: Path) -> bool:
    """Whether a folder is a package, and not the user's own folder."""
    return (folder / PACKAGE_RECORD).is_file()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes; the result is empty if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _packages(folder: Path) -> Iterator[tuple[Path, PackageRecord]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and is_package(path):
            yield path, PackageRecord.load(path / PACKAGE_RECORD)


def _files(folder: Path, own: Collection[str]) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in own or not path.is_file():
            continue
        if path.suffix == ".onnx" and _is_own_model(path):
            yield path
        elif path.suffix == ".json" and _OWN_FORMAT in path.read_bytes()[:_HEAD].decode("utf-8", "replace"):
            yield path
            beside = (path.with_suffix(ending) for ending in _PAGES)
            yield from (page for page in beside if page.name not in own and page.is_file())


def _is_own_model(path: Path) -> bool:
    """Whether a command of this package wrote the file; for an unreadable file the answer is no."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf and the operating system raise unrelated exception types
        return False
    return any(entry.key.startswith(PREFIX) for entry in proto.metadata_props)
