"""What every test needs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

# Read when NumPy and torch are imported, and handed on to workers: each core has a worker, and threads that spin while
# they wait take it from another worker's test, which makes runs with more than one thread up to six times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Read when ONNX Runtime is imported: tests report nothing, and its thread for reports would not be in forked workers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from lampq_onnx.disk.cache import FOLDER_VARIABLE
from tests.kept_exports import EXPORTS_VARIABLE, keep_exports
from tests.prepared import PreparedPython, collect_rarely, prepare

ADDRESS_VARIABLE = "LAMPQ_TESTS_PREPARED"
"""In a forked worker: where the process is from which it was forked."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Let the workers of a run share exports; on Linux, fork them from one process that has imported what they need.

    Workers on other machines, and those with a Python of their own, start as usual.
    """
    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="lampq")))
    stack.enter_context(pytest.MonkeyPatch.context()).setenv(EXPORTS_VARIABLE, str(folder / "exports"))
    forked = [spec for spec in specs if sys.platform == "linux" and spec.popen and not spec.python]
    if forked:
        python = stack.enter_context(prepare(folder))
        for spec in forked:
            spec.python = python.program
            spec.env[ADDRESS_VARIABLE] = python.address


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads what an earlier session or the user kept."""
    os.environ[FOLDER_VARIABLE] = str(Path(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def _kept_exports(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All workers of a run share their exports; a forked one does so from its start."""
    if ADDRESS_VARIABLE not in os.environ:
        shared = os.environ.get(EXPORTS_VARIABLE)
        keep_exports(Path(shared) if shared else tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedPython]:
    """Starts programs without the time that imports take."""
    if ADDRESS_VARIABLE in os.environ:
        yield PreparedPython(os.environ[ADDRESS_VARIABLE])
        return
    with prepare(tmp_path_factory.mktemp("prepared")) as python:
        yield python


LONG = ("tests/documents/", "tests/cli/", "tests/tools/", "tests/frontend/")
"""Folders whose files take longest. They start first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by how long they take; `make test` hands them to the workers in this order."""
    items.sort(key=lambda item: next((n for n, folder in enumerate(LONG) if item.nodeid.startswith(folder)), len(LONG)))


def pytest_collection() -> None:
    """Hardly anything that is made while tests are collected is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end, and the collector need not look at them again and again."""
    collect_rarely()
    gc.enable()
