"""One run of the main job on the embedded default, shared by the tests that read its files."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from lampq_onnx.cli.main import run


def invoke(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        run([str(word) for word in words])
    return int(caught.value.code or 0), out.getvalue(), err.getvalue()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that read the run go to one worker, which makes it once (`--dist loadgroup`)."""
    for item in items:
        if "digits_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("digits_run"))


QUICK = ("--effort", "fast", "--threads", "1")
"""Handing the products of the digits model to other threads takes longer than computing them."""


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and standard output of `quantize digits` at 3 bits."""
    folder = tmp_path_factory.mktemp("digits") / "out"
    code, out, err = invoke(
        "quantize", "digits", "--bits", "3", "--output", folder, "--baseline", "uniform", "--latency-runs", "3", *QUICK
    )  # fmt: skip
    assert code == 0, err
    return folder, out
