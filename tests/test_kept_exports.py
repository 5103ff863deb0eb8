"""Kept exports are what the exporter gives, and only the same model gets them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import timm
import torch

from tests.kept_exports import EXPORTS_VARIABLE, keep_exports

IMAGES = torch.zeros(2, 3, 16, 16)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(EXPORTS_VARIABLE, "")
    monkeypatch.setattr(torch.onnx, "export", inspect.unwrap(torch.onnx.export))
    keep_exports(tmp_path)
    return tmp_path


def tiny(**changes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3} | changes
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def exported(model: torch.nn.Module) -> onnx.ModelProto:
    return ir.to_proto(torch.onnx.export(model, (IMAGES,), dynamo=True, opset_version=20, verbose=False).model)


def test_the_same_model_gets_what_was_exported(kept: Path) -> None:
    model = tiny()
    first = exported(model)
    fresh = inspect.unwrap(torch.onnx.export)(model, (IMAGES,), dynamo=True, opset_version=20, verbose=False)
    assert first == ir.to_proto(fresh.model)
    assert len(list(kept.iterdir())) == 1
    again = exported(tiny())
    assert len(list(kept.iterdir())) == 1
    assert again == first

    with torch.no_grad():
        model.head.weight[0, 0] += 1
    assert exported(model) != first
    exported(tiny(num_heads=4))
    assert len(list(kept.iterdir())) == 3


def test_a_model_of_a_test_is_exported_each_time(kept: Path) -> None:
    class Own(torch.nn.Linear):
        pass

    hooked = tiny()
    hooked.head.register_forward_hook(lambda module, inputs, output: output + 1)
    for model in (torch.nn.Sequential(torch.nn.Flatten(), Own(768, 2)).eval(), hooked):
        exported(model)
    assert not list(kept.iterdir())


def test_operators_that_are_kept_whole_are_those_of_now(kept: Path) -> None:
    from torch._export import utils

    fresh = inspect.unwrap(utils._collect_all_valid_cia_ops)
    assert utils._collect_all_valid_cia_ops() == fresh()
    with torch.library._scoped_library("lampq_tests", "DEF") as library:
        library.define("own(Tensor x) -> Tensor")
        library.impl("own", lambda x: x, "CompositeImplicitAutograd")
        assert torch.ops.lampq_tests.own.default in utils._collect_all_valid_cia_ops()
    assert utils._collect_all_valid_cia_ops() == fresh()
