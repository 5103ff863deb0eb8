"""One run of the main job on the embedded default, shared by the tests that read its files."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from pathlib import Path

import pytest

from lampq_onnx.cli.main import run


def invoke(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        run([str(word) for word in words])
    return int(caught.value.code or 0), out.getvalue(), err.getvalue()


QUICK = ("--effort", "fast", "--threads", "1")
"""Handing the products of the digits model to other threads takes longer than computing them."""


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and standard output of `quantize digits` at 3 bits; the first worker in need makes them for all."""
    room = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        room = room.parent  # of the folders that workers have for themselves
    folder, said = room / "digits" / "out", room / "digits" / "said.txt"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            code, out, err = invoke(
                "quantize", "digits", "--bits", "3", "--output", folder, "--baseline", "uniform",
                "--latency-runs", "3", *QUICK,
            )  # fmt: skip
            assert code == 0, err
            said.write_text(out, encoding="utf-8")
    return folder, said.read_text(encoding="utf-8")
