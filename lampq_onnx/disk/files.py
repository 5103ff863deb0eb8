"""Write files so that they appear whole or not at all, and read files with clear errors."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lampq_onnx.disk.amounts import megabytes
from lampq_onnx.disk.locks import locked
from lampq_onnx.errors import LampqError, UsageError

_log = logging.getLogger(__name__)

FLOAT_FILE, MODEL_FILE, WEIGHTS_FILE = "float.onnx", "model.onnx", "weights.safetensors"
SENSITIVITY_FILE, PLAN_FILE, REPORT_FILE = "sensitivity.json", "plan.json", "report.json"
RECIPE_FILE, PAGE_FILE = "recipe.toml", "report.html"
OUTPUT_FILES = (
    FLOAT_FILE,
    SENSITIVITY_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    MODEL_FILE,
    REPORT_FILE,
    RECIPE_FILE,
    PAGE_FILE,
)
"""Names of the files that `quantize` writes."""


TIMELESS_FILES = (PLAN_FILE, WEIGHTS_FILE, FLOAT_FILE, MODEL_FILE)
"""Those files that hold no times: the same run again gives the same bytes."""

TEXT_LIMIT = 256 * 2**20
"""Size limit in bytes for text files that are read; sensitivities of the largest models have a few megabytes."""


def require_file(path: Path, what: str, *, limit: int | None = None) -> None:
    """Check that ``path`` is a file of bounded size: reading a pipe or device would never end.

    Args:
        path: the file.
        what: what the file should be, for the message.
        limit: largest size in bytes; None: any.

    Raises:
        LampqError: there is no such file, it is something else, or it is larger.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise LampqError(f"cannot read {what} {shortened(path)}: {reason_of(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise LampqError(f"cannot read {what} {shortened(path)}: it is not a file", hint="give a regular file")
    if limit is not None and status.st_size > limit:
        raise LampqError(
            f"cannot read {what} {path}: it has {megabytes(status.st_size)}; the limit is {megabytes(limit)}"
        )


def read_text(path: Path, what: str, *, limit: int = TEXT_LIMIT) -> str:
    """Read the UTF-8 text of a file.

    Raises:
        LampqError: see `require_file`; also if the text is not UTF-8.
    """
    require_file(path, what, limit=limit)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LampqError(f"cannot read {what} {path}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return why a file cannot be used, without the file's name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


PATH_HINT = "correct the path; it counts from the folder that the command runs in"
"""What to do about a path that is not there."""


def shortened(path: Path, limit: int = 300) -> str:
    """Shorten a path for a message; names may be as long as the command line."""
    text = str(path)
    return text if len(text) <= limit else f"{text[:limit]}..."


def require_writable(folder: Path) -> None:
    """Check that files can be made in ``folder``, or that it can be made; nothing is left there.

    Raises:
        UsageError: it is a file, or below one.
        LampqError: the folder cannot be created or written.
    """
    present = _nearest(folder)
    if present.is_file():
        which = "it" if present == folder.absolute() else shortened(present)
        raise UsageError(
            f"cannot write to the output folder {shortened(folder)}: {which} is a file",
            hint="choose another folder with --output",
        )
    try:
        with tempfile.NamedTemporaryFile(dir=present, prefix=".lampq-"):
            pass
    except OSError as error:
        raise LampqError(
            f"cannot write to the output folder {shortened(folder)}: {error.strerror or error}",
            hint="choose another folder with --output, or make this one writable",
        ) from error


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse work whose files do not fit on the disk.

    Args:
        folder: where the files go; it need not exist yet.
        needed: estimate in bytes.
        what: what needs the space, for the message.

    Raises:
        LampqError: names the needed and the free space.
    """
    try:
        free = shutil.disk_usage(_nearest(folder)).free
    except OSError:  # some network file systems do not tell; the write itself will fail
        return
    if free < needed:
        raise LampqError(
            f"the disk of {shortened(folder)} has {megabytes(free)} free, and {what} needs about {megabytes(needed)}",
            hint="make room there, or choose a folder on another disk with --output",
        )


def _nearest(folder: Path) -> Path:
    """Return the folder itself, or the nearest folder above it that exists."""
    here = folder.absolute()
    return next((path for path in (here, *here.parents) if os.path.lexists(path)), here)


@contextmanager
def created(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its parents; those that are empty after the block are removed again.

    Raises:
        LampqError: the folder cannot be created or written.
    """
    require_writable(folder)
    here = folder.absolute()
    missing = [path for path in (here, *here.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # not empty, or gone
            for path in missing:
                path.rmdir()


def require_output_file(path: Path) -> None:
    """Check that a file can be written at ``path``.

    Raises:
        UsageError: ``path`` is a folder.
        LampqError: its folder cannot be written.
    """
    require_writable(path.parent)
    if path.is_dir():
        raise UsageError(f"cannot write the file {path}: a folder has that name", hint="choose another name")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other runs out of ``folder`` during the block; the lock ends with the process, however it ends.

    Raises:
        LampqError: another run writes there, or the folder cannot be written.
    """
    with created(folder), locked(folder) as got:
        if not got:
            raise LampqError(
                f"another run is writing to the output folder {folder}",
                hint="wait for it, or choose another folder with --output",
            )
        yield


@contextmanager
def staging(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Give a private folder inside ``folder`` whose files move into it when the block succeeds.

    Each file arrives by an atomic rename. If the block or a rename raises, ``folder`` is as it was. If the process is
    killed before the renames, it is as well, and the next call removes what was left. If it is killed between two
    renames, the next call finishes them.

    Args:
        folder: where the files should appear.
        names: names of the files; that they can be written is checked before the block.

    Raises:
        LampqError: ``folder`` cannot be written, or holds a folder with one of the names.
    """
    with created(folder):
        _settle_abandoned(folder)
        for name in names:
            require_output_file(folder / name)
        unlocked = Path(tempfile.mkdtemp(dir=folder, prefix=".lampq-new-"))
        with locked(unlocked):
            room = unlocked.replace(folder / unlocked.name.replace(".lampq-new-", _ROOM))
            stage, backup, complete = (room / name for name in (_STAGE, _BACKUP, _COMPLETE))
            stage.mkdir()
            backup.mkdir()
            try:
                yield stage
                _require_room(folder, room)
                stage.replace(complete)  # from here on, the next run finishes a killed one
                _arrive(complete, backup, folder)
            finally:
                shutil.rmtree(room, ignore_errors=True)


_ROOM, _STAGE, _COMPLETE, _BACKUP = ".lampq-run-", "stage", "complete", "backup"


def _arrive(complete: Path, backup: Path, folder: Path) -> None:
    """Move all files into ``folder``; undo it if one cannot be moved."""
    arrived: list[Path] = []
    try:
        for item in sorted(complete.iterdir()):
            target = folder / item.name
            if target.exists():
                shutil.copy2(target, backup / item.name)
            arrived.append(target)
            item.replace(target)
    except BaseException:
        for target in arrived:
            old = backup / target.name
            if old.exists():
                old.replace(target)
            else:
                target.unlink(missing_ok=True)
        raise


def _settle_abandoned(folder: Path) -> None:
    """Finish or remove what killed processes left in ``folder``."""
    for room in folder.glob(f"{_ROOM}*"):
        with suppress(OSError), locked(room) as abandoned:  # OSError: its owner is just removing it
            if not abandoned:
                continue
            complete = room / _COMPLETE
            if complete.is_dir():
                _log.warning("finishing what a killed run left in %s", folder)
                for item in sorted(complete.iterdir()):
                    item.replace(folder / item.name)
            shutil.rmtree(room, ignore_errors=True)


def _require_room(folder: Path, room: Path) -> None:
    if not room.is_dir():
        raise LampqError(
            f"the output folder {folder} was removed or emptied while the run wrote to it",
            hint="run again, and leave the folder alone until it ends",
        )


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder and a rename."""
    require_output_file(path)
    with created(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".lampq-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
