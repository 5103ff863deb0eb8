from __future__ import annotations

from pathlib import Path

import pytest

from tests.frontend.onnx_model import exports
from tests.frontend.tiny_models import tiny_vit


@pytest.fixture(scope="session")
def dynamo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_vit` with opset 18."""
    return exports.by_dynamo(tiny_vit(), tmp_path_factory.mktemp("dynamo") / "tiny.onnx", 18)


@pytest.fixture(scope="session")
def torchscript_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_vit` with opset 17."""
    return exports.by_torchscript(tiny_vit(), tmp_path_factory.mktemp("torchscript") / "tiny.onnx", 17)
