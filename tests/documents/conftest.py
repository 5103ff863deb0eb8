"""What the tests of pages share: one model with its images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents.reader import Reader, reader_environment
from tests.prepared import PreparedPython


@pytest.fixture(scope="session")
def taken_for_granted(prepared: PreparedPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, calibration images, and validation images with labels."""
    folder = tmp_path_factory.mktemp("granted")
    done = subprocess.run(
        [*prepared.command, "-c", "from tests.documents.own_model import write; write()"],
        cwd=folder, env=reader_environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def beginner(tmp_path: Path, prepared: PreparedPython) -> Reader:
    """A reader in an empty folder."""
    return Reader.of(tmp_path, prepared)


@pytest.fixture
def reader(beginner: Reader, taken_for_granted: Path) -> Reader:
    """A reader who has a model and images, as the pages take for granted."""
    shutil.copytree(taken_for_granted, beginner.folder, dirs_exist_ok=True)
    return beginner
