"""Triton is left out where there is no GPU, and nothing else notices."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from lampq_onnx.frontend.shared.compiler import TRITON, without_triton


@pytest.fixture(autouse=True)
def _not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == TRITON]:
        monkeypatch.delitem(sys.modules, name)


def test_without_a_gpu_an_import_of_triton_fails_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with without_triton(), pytest.raises(ImportError):
        import_module(TRITON)
    assert TRITON not in sys.modules


def test_pytorch_asks_again_for_triton_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asking = import_module("torch.utils._triton")
    with without_triton():
        asking.has_triton_package.cache_clear()
        asking.get_triton_version.cache_clear()
        assert not asking.has_triton_package()
        assert asking.get_triton_version() == (0, 0)
    monkeypatch.setitem(sys.modules, TRITON, SimpleNamespace(__version__="3.5.1"))
    try:
        assert asking.has_triton_package()
        assert asking.get_triton_version() == (3, 5)
    finally:
        asking.has_triton_package.cache_clear()
        asking.get_triton_version.cache_clear()


def test_code_inside_may_forget_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with without_triton():
        del sys.modules[TRITON]
    assert TRITON not in sys.modules


def test_with_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with without_triton():
        assert TRITON not in sys.modules


def test_a_loaded_triton_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TRITON, torch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with without_triton():
        assert sys.modules[TRITON] is torch
    assert sys.modules[TRITON] is torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, for which Triton compiles")
def test_loading_a_model_needs_no_triton() -> None:
    code = """
import sys
from lampq_onnx.frontend.shared.compiler import load_compiler
load_compiler()
import timm
from lampq_onnx.frontend.models.loading import load_module
from lampq_onnx.frontend.session import Frontend
module = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=1, img_size=32, num_classes=3)
Frontend(load_module(module, "small", None))
print([name for name in ("triton", "scipy", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert "triton" not in done.stderr
