"""Locks on folders: one holder at a time, also where a file stands for the folder."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from lampq_onnx.disk import locks
from lampq_onnx.disk.locks import locked, locked_by_file

Lock = Callable[[Path], AbstractContextManager[bool]]

HOLD = """
import sys, time
from pathlib import Path
from lampq_onnx.disk import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2])) as got:
    print(got, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "running"
    room.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(room))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


@pytest.mark.parametrize("lock", [locked, locked_by_file])
def test_one_holder_at_a_time(lock: Lock, folder: Path) -> None:
    for _ in range(2):
        with lock(folder) as first, lock(folder) as second:
            assert (first, second) == (True, False)
            with lock(folder.parent) as other:
                assert other
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("lock", [locked, locked_by_file])
def test_a_renamed_folder_stays_locked(lock: Lock, folder: Path) -> None:
    with lock(folder) as got:
        assert got
        renamed = folder.rename(folder.with_name("other"))
        with lock(renamed) as again:
            assert not again


@pytest.mark.parametrize("lock", [locked, locked_by_file])
def test_the_lock_ends_with_the_process(lock: Lock, folder: Path) -> None:
    words = [sys.executable, "-c", HOLD, lock.__name__, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with lock(folder) as got:
            assert not got
        holder.kill()
    with lock(folder) as got:
        assert got


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_a_file_system_without_locks_takes_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "fcntl", SimpleNamespace(flock=fail, LOCK_EX=2, LOCK_NB=4))
    with locked(folder) as first, locked(folder) as second:
        assert (first, second) == (True, False)


def test_no_place_for_the_file_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **options: object) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks.platformdirs, "user_runtime_path", fail)
    with caplog.at_level(logging.WARNING), locked_by_file(folder) as got:
        assert got
    assert "cannot be locked against other runs (Permission denied)" in caplog.text


def test_a_missing_folder_is_no_silent_success(tmp_path: Path) -> None:
    for lock in (locked, locked_by_file):
        with pytest.raises(FileNotFoundError), lock(tmp_path / "missing"):
            pass
