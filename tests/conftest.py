"""What every test needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lampq_onnx.cache import FOLDER_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads what an earlier session or the user kept."""
    os.environ[FOLDER_VARIABLE] = str(Path(tmp_path_factory.mktemp("cache")))
