"""Programs that are forked from one process end as their callers do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import prepared as module
from tests.prepared import PreparedPython, prepare

SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a program that its caller was killed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_fork_ends_with_its_caller(number: int, prepared: PreparedPython) -> None:
    with subprocess.Popen([*prepared.command, "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        fork = int(caller.stdout.readline())
        caller.send_signal(number)
        assert caller.wait(60) != 0
    deadline = time.monotonic() + 60
    while _runs(fork):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_text_is_the_main_module(prepared: PreparedPython) -> None:
    text = "import sys; own = 5; main = vars(sys.modules['__main__']); print(main['own'], '_serve' in main)"
    words = [*prepared.command, "-c", text]
    assert subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout == "5 False\n"


def test_a_first_process_that_fails_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen
    words = [sys.executable, "-c", "import time; print('no', flush=True); time.sleep(600)"]
    monkeypatch.setattr(module.subprocess, "Popen", lambda _, **options: start(words, **options))
    with pytest.raises(AssertionError, match="'no"), prepare(tmp_path):
        pass


def _runs(process: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to ask."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
