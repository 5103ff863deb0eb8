"""Files of detectors that take a mask of the padding beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.importer import import_model
from lampq_onnx.importer.mask_input import remove_mask_input

IMAGES = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)


@pytest.fixture(params=[TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Sums images times a mask; the mask comes first."""
    inputs = [
        helper.make_tensor_value_info("pixel_mask", request.param, ["n", 4, 6]),
        helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 4, 6]),
    ]
    axis = numpy_helper.from_array(np.array([1]), "axis")
    nodes = [
        helper.make_node("Cast", ["pixel_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "axis"], ["whole"]),
        helper.make_node("Mul", ["pixel_values", "whole"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["logits"], keepdims=0),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, 6])
    graph = helper.make_graph(nodes, "masked", inputs, [output], [axis])
    path = tmp_path / "masked.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_mask_is_computed_for_images_without_padding(file: Path, tmp_path: Path) -> None:
    imported = import_model(file)
    assert [value.name for value in imported.model.graph.inputs] == ["pixel_values"]
    assert imported.changes["masks of padding computed inside"] == 1
    ir.save(imported.model, tmp_path / "plain.onnx")
    found = ort.InferenceSession(tmp_path / "plain.onnx", providers=["CPUExecutionProvider"]).run(
        None, {"pixel_values": IMAGES}
    )
    np.testing.assert_allclose(found[0], IMAGES.sum(1), rtol=1e-5, atol=1e-6)


def test_other_inputs_are_left_alone(file: Path) -> None:
    model = ir.load(file)
    model.graph.inputs[0].name = "sizes"
    assert remove_mask_input(model) == 0
    assert len(model.graph.inputs) == 2
