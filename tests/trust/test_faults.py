"""What is left after a run that was killed, stopped or met another one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lampq_onnx.disk.files import exclusive, staging
from lampq_onnx.errors import LampqError

NAMES = ("a.txt", "b.txt", "c.txt")

CHILD = """
import os, sys, time
from pathlib import Path
from lampq_onnx.disk import files
folder, moment = Path(sys.argv[1]), sys.argv[2]
real = Path.replace
moved = []
def replace(self, target):
    if moment == "moving" and self.parent.name == "complete":
        moved.append(target)
        if len(moved) == 2:
            os.kill(os.getpid(), 9)
    return real(self, target)
Path.replace = replace
with files.exclusive(folder), files.staging(folder, ["a.txt", "b.txt", "c.txt"]) as stage:
    for name in ("a.txt", "b.txt", "c.txt"):
        (stage / name).write_text("new " + name)
        if moment == "writing" and name == "b.txt":
            os.kill(os.getpid(), 9)
    if moment == "waiting":
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def child(folder: Path, moment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), moment], stdout=subprocess.PIPE, text=True)


def test_killed_while_it_writes(folder: Path) -> None:
    assert child(folder, "writing").wait() == -signal.SIGKILL
    assert contents(folder) == {name: f"old {name}" for name in NAMES}
    with exclusive(folder), staging(folder, NAMES) as stage:
        assert [p.name for p in folder.iterdir() if p.is_dir()] == [stage.parent.name], (
            "the killed run's folder is gone"
        )
        (stage / "a.txt").write_text("newer")
    assert contents(folder) == {"a.txt": "newer", "b.txt": "old b.txt", "c.txt": "old c.txt"}
    assert not [p for p in folder.iterdir() if p.is_dir()]


def test_killed_between_two_renames_is_finished_by_the_next_run(folder: Path) -> None:
    assert child(folder, "moving").wait() == -signal.SIGKILL
    with staging(folder, NAMES):
        assert contents(folder) == {name: f"new {name}" for name in NAMES}
    assert contents(folder) == {name: f"new {name}" for name in NAMES}


def test_two_runs_into_one_folder(folder: Path) -> None:
    other = child(folder, "waiting")
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(LampqError, match="another run is writing"), exclusive(folder):
            pass
        with staging(folder, ("d.txt",)) as stage:  # a single file of another command leaves the run alone
            (stage / "d.txt").write_text("d")
        assert len([p for p in folder.iterdir() if p.is_dir()]) == 1
    finally:
        other.kill()
        other.wait()
    with exclusive(folder):
        pass


def test_the_folder_is_removed_during_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def run() -> None:
        with staging(folder, NAMES) as stage:
            (stage / "a.txt").write_text("new")
            shutil.rmtree(folder)

    with pytest.raises(LampqError, match="removed"):
        run()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_terminated_runs_leave_nothing(tmp_path: Path) -> None:
    script = (
        # A background job's children ignore Ctrl-C unless they say otherwise.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lampq_onnx.cli import main\nfrom lampq_onnx.disk import files\nfrom pathlib import Path\n"
        "def app(words, **_):\n"
        "    with files.staging(Path(sys.argv[1]), ['x']):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "main.program = lambda: app\nmain.run()\n"
    )
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == code
        assert not list(tmp_path.iterdir())
