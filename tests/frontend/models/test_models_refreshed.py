"""Weights written into an exported graph, against the module that they come from."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.equalization.fold import Equalization, apply
from lampq_onnx.frontend.models import refreshed as refreshed_module
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.refreshed import refreshed
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.runtime import open_runner
from tests.frontend.tiny_models import loaded, pixels, tiny_vit


def test_an_equalized_model_is_written_without_another_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tiny_vit())
    frontend = Frontend(model)
    images = pixels(4)
    wanted = model.module(images).numpy()
    random = torch.Generator().manual_seed(0)
    links = frontend.links(images)
    assert {link.kind for link in links} == {"norm", "linear", "multiply"}
    for link in links:
        shift = torch.randn(link.channels, generator=random) * (0.3 if link.shift else 0.0)
        apply(Equalization(link, 0.5 + torch.rand(link.channels, generator=random), shift))

    def fail(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(refreshed_module, "export_model", fail)
    before = {value.name for value in frontend.exported.model.graph.initializers.values()}
    found = refreshed(frontend.exported, model, [module for link in links for module in link.modules])
    assert found.layers == frontend.exported.layers
    assert before == {value.name for value in frontend.exported.model.graph.initializers.values()}
    multiplied = [node for node in found.model.graph if node.name and node.name.endswith(".input.multiply")]
    assert len(multiplied) == sum(link.kind == "multiply" for link in links)
    weights = [value.const_value.numpy() for value in found.model.graph.initializers.values() if value.const_value]
    for layer in (layer for link in links for layer in link.readers):  # the graph holds no copies of the weights
        matrix = layer.module.weight.detach().numpy()
        assert any(np.shares_memory(matrix, weight) for weight in weights), layer.name
    save_model(found.model, tmp_path / "float.onnx")
    got = open_runner(tmp_path / "float.onnx", threads=1)(images.numpy())
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
    for layer in found.layers:
        assert any(
            value.const_value is not None
            and value.const_value.size == layer.parameters
            and np.allclose(np.sort(value.const_value.numpy().ravel()), np.sort(layer.matrix().ravel()), atol=0)
            for value in found.model.graph.initializers.values()
        ), layer.name


def test_a_module_that_the_graph_does_not_name_is_exported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tiny_vit())
    frontend = Frontend(model)
    again = object()
    monkeypatch.setattr(refreshed_module, "export_model", lambda _: again)
    assert refreshed(frontend.exported, model, [torch.nn.LayerNorm(4)]) is again


def test_a_second_export_frees_the_graph_of_the_first() -> None:
    model = loaded(tiny_vit())
    first = export_model(model)
    again = refreshed(first, model, [torch.nn.Linear(2, 2)])  # not in the graph, so that the model is exported
    held = [weakref.ref(exported.model.graph) for exported in (first, again)]
    del first, again
    gc.collect()
    assert [reference() for reference in held] == [None, None]
