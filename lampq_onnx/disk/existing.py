"""Rule for existing outputs: nothing is replaced unless the user says so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lampq_onnx.disk.files import require_output_file, shortened
from lampq_onnx.errors import UsageError

HINT = "name another one, or replace it with --overwrite (overwrite=True in Python)"


def occupied(path: Path) -> bool:
    """Whether anything exists at ``path``, a broken link included."""
    return path.exists() or path.is_symlink()


def require_new_files(paths: Iterable[Path | None], *, overwrite: bool) -> None:
    """Check that files can be written, before the work that makes them.

    Args:
        paths: the files; None: a file that was not requested.
        overwrite: whether existing files may be replaced.

    Raises:
        UsageError: a file exists, or a folder has its name.
        LampqError: a folder cannot be written.
    """
    for path in paths:
        if path is None:
            continue
        require_output_file(path)
        if not overwrite and occupied(path):
            raise UsageError(f"the file {shortened(path)} exists already", hint=HINT)


def require_new_folder(path: Path, *, replaceable: bool) -> None:
    """Check that a folder does not exist, or may be replaced.

    Args:
        path: the folder.
        replaceable: whether it is a package, and may be replaced.

    Raises:
        UsageError: it exists and may not be replaced, or is a file.
    """
    if path.is_dir() and not replaceable:
        raise UsageError(
            f"the folder {shortened(path)} exists already",
            hint="name another folder with --output; a package is replaced with --overwrite",
        )
    if occupied(path) and not path.is_dir():
        raise UsageError(f"{shortened(path)} exists already, as a file", hint="name another folder with --output")
