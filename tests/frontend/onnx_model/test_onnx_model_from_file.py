from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.frontend.equalization.fold import Equalization, apply
from lampq_onnx.frontend.equalization.links import find_links
from lampq_onnx.frontend.measuring.fisher import fisher_traces
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import load_model, save_model
from tests.frontend.onnx_model import exports
from tests.frontend.tiny_models import layers_of, pixels, tiny_vit

HALVES = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module", params=["dynamo", "torchscript", "dynamo, opset 23", "no names"])
def file(
    request: pytest.FixtureRequest, dynamo_file: Path, torchscript_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("files")
    if request.param == "dynamo":
        return dynamo_file
    if request.param == "torchscript":
        return torchscript_file
    if request.param == "no names":
        return exports.without_names(torchscript_file, folder / "bare.onnx")
    return exports.by_dynamo(tiny_vit(), folder / "tiny.onnx", 23)


@pytest.fixture(scope="module")
def loaded(file: Path) -> LoadedModel:
    return load_onnx(file, HALVES)


def test_module_computes_what_the_exported_model_does(loaded: LoadedModel) -> None:
    for count in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(loaded.module(pixels(count)), tiny_vit()(pixels(count)), rtol=1e-4, atol=1e-5)


def test_layers_are_those_of_the_exported_model(loaded: LoadedModel) -> None:
    layers = export_model(loaded).layers
    own = layers_of(tiny_vit())
    assert [layer.type for layer in layers] == [layer.type for layer in own]
    assert [layer.fixed for layer in layers] == [layer.fixed for layer in own]
    for layer, other in zip(layers, own, strict=True):
        np.testing.assert_array_equal(layer.matrix(), other.matrix())
        assert layer.module.bias is not None
        torch.testing.assert_close(layer.module.bias, other.module.bias)


def test_fisher_traces_are_those_of_the_exported_model(loaded: LoadedModel) -> None:
    layers = export_model(loaded).layers
    model = tiny_vit()
    batches = [(pixels(6), torch.tensor([0, 1, 2, 3, 0, 1]))]
    found = fisher_traces(loaded.module, layers, batches)
    wanted = fisher_traces(model, layers_of(model), batches)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-3)


def test_blocks_can_be_skipped(loaded: LoadedModel) -> None:
    layers = export_model(loaded).layers
    chain = BlockChain(loaded.module, layers, pixels(2))
    assert [[layer.type for layer in block.layers] for block in chain.blocks] == [["qkv", "proj", "fc1", "fc2"]] * 2
    assert [layer.type for layer in (*chain.before, *chain.after)] == ["patch_embed", "head"]
    states = chain.advance(chain.states([pixels(3)]))
    torch.testing.assert_close(chain.logits(states), loaded.module(pixels(3)))


def test_a_copy_has_weights_of_its_own(loaded: LoadedModel) -> None:
    other = copy.deepcopy(loaded.module)
    wanted = loaded.module(pixels(2))
    torch.testing.assert_close(other(pixels(2)), wanted)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(loaded.module(pixels(2)), wanted)
    assert not torch.allclose(other(pixels(2)), wanted)


def test_equalized_graph_is_written_as_the_module_computes_it(file: Path, tmp_path: Path) -> None:
    fresh = load_onnx(file, HALVES)
    exported = export_model(fresh)
    chain = BlockChain(fresh.module, exported.layers, pixels(2))
    links = find_links(exported, fresh.module, chain, pixels(2))
    assert Counter(link.kind for link in links) == {"norm": 4, "linear": 2, "multiply": 2}
    generator = torch.Generator().manual_seed(0)
    for link in links:
        shift = torch.randn(link.channels, generator=generator) * float(link.shift)
        apply(Equalization(link, 0.5 + torch.rand(link.channels, generator=generator), shift))
    written = export_model(fresh)
    save_model(written.model, tmp_path / "float.onnx")
    session = ort.InferenceSession(str(tmp_path / "float.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels(3).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), tiny_vit()(pixels(3)), rtol=1e-3, atol=1e-4)
    layers = {graph_layer.name: graph_layer for graph_layer in find_layers(load_model(tmp_path / "float.onnx").graph)}
    for before, model_layer in zip(exported.layers, written.layers, strict=True):
        np.testing.assert_array_equal(layers[model_layer.name].matrix(), model_layer.matrix())
        assert layers[model_layer.name].type == model_layer.type
        assert before.name == model_layer.name
    products = [node.op_type for node in written.model.graph if (node.name or "").endswith(".input.multiply")]
    assert products == ["Mul"] * 2


def test_a_shared_constant_is_changed_for_one_layer_only(dynamo_file: Path, tmp_path: Path) -> None:
    model = ir.load(dynamo_file)
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    for norm in norms[1:]:
        norm.replace_input_with(1, norms[0].inputs[1])
        norm.replace_input_with(2, norms[0].inputs[2])
    ir.save(model, tmp_path / "shared.onnx")
    loaded = load_onnx(tmp_path / "shared.onnx", HALVES)
    exported = export_model(loaded)
    with torch.no_grad():
        wanted = loaded.module(pixels(2))
    chain = BlockChain(loaded.module, exported.layers, pixels(2))
    link = next(link for link in find_links(exported, loaded.module, chain, pixels(2)) if link.kind == "norm")
    apply(Equalization(link, torch.full((link.channels,), 2.0), torch.zeros(link.channels)))
    save_model(export_model(loaded).model, tmp_path / "float.onnx")
    session = ort.InferenceSession(str(tmp_path / "float.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels(2).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), wanted, rtol=1e-4, atol=1e-5)
