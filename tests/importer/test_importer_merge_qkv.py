"""Query, key and value layers become one layer with a name of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lampq_onnx.graph.layers import find_layers
from lampq_onnx.importer import import_model
from tests.converter.graphs import vit


@pytest.mark.parametrize("named", [True, False])
def test_every_block_gets_a_layer_of_its_own(named: bool, tmp_path: Path) -> None:
    """Weights without module names share no more than the operator's name, in all blocks."""
    model = vit(qkv="separate", named=named, blocks=3)
    onnx.save(model, tmp_path / "model.onnx")
    imported = import_model(tmp_path / "model.onnx")
    assert imported.changes["qkv joined"] == 3
    names = [layer.name for layer in find_layers(imported.model.graph) if layer.type == "qkv"]
    assert len(set(names)) == len(names) == 3
    if named:
        assert names == [f"blocks.{i}.attn.qkv" for i in range(3)]
    images = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    found, wanted = (
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )
        for proto in (ir.to_proto(imported.model), model)
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)


def test_a_name_that_the_file_uses_for_something_else_is_not_taken(tmp_path: Path) -> None:
    model = vit(qkv="separate", blocks=1)
    number = onnx.numpy_helper.from_array(np.zeros(5, np.float32), "blocks.0.attn.qkv.bias")
    model.graph.initializer.append(number)
    logits = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Add", ["before", number.name], [logits]))
    onnx.save(model, tmp_path / "model.onnx")
    imported = import_model(tmp_path / "model.onnx")
    (layer,) = (layer for layer in find_layers(imported.model.graph) if layer.type == "qkv")
    assert layer.name == "blocks.0.attn.qkv.2"
