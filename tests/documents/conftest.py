"""What the tests of pages share: one prepared process, and one model with its images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.prepared import PreparedPython
from tests.documents.reader import Reader, environment


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedPython]:
    """Programs that start at once."""
    folder = tmp_path_factory.mktemp("prepared")
    with PreparedPython(folder, environment(folder)) as started:
        yield started


@pytest.fixture(scope="session")
def taken_for_granted(python: PreparedPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, calibration images, and validation images with labels."""
    folder = tmp_path_factory.mktemp("granted")
    done = subprocess.run(
        [*python.command, "-c", "from tests.documents.own_model import write; write()"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def beginner(tmp_path: Path, python: PreparedPython) -> Reader:
    """A reader in an empty folder."""
    return Reader.of(tmp_path, python)


@pytest.fixture
def reader(beginner: Reader, taken_for_granted: Path) -> Reader:
    """A reader who has a model and images, as the pages take for granted."""
    shutil.copytree(taken_for_granted, beginner.folder, dirs_exist_ok=True)
    return beginner
