"""Locks for folders, so that only one run at a time writes to them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Try to lock a folder during the block; the lock ends with the process, however it ends.

    1. If the system can lock a folder itself (flock), that is used: it leaves no file, and on most network file systems
       it keeps out other machines too.
    2. Otherwise, as on Windows, a file in the user's folder for running programs is locked instead. Its name is the
       folder's number on its disk, so that the lock stays if the folder is renamed.

    Yields:
        Whether no one else holds the lock. Also True, with a warning in the log, if nothing can be locked.
    """
    if sys.platform == "win32":
        with locked_by_file(folder) as got:
            yield got
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # network file systems without locks
            with locked_by_file(folder) as got:
                yield got
        else:
            yield True
    finally:
        os.close(handle)


@contextmanager
def locked_by_file(folder: Path) -> Iterator[bool]:
    """Lock a folder through a file elsewhere; see `locked`.

    Raises:
        OSError: there is no such folder.
    """
    place = folder.stat()
    try:
        room = platformdirs.user_runtime_path("lampq-onnx", appauthor=False, ensure_exists=True)
        lock = FileLock(room / f"{place.st_dev}-{place.st_ino}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        _log.warning("%s cannot be locked against other runs (%s)", folder, error.strerror or error)
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
