"""A missing shape of an output is no fault, and hides none."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model


def saved(node: onnx.NodeProto, path: Path) -> Path:
    """One node from x to y, whose shape nobody says."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2]), ("y", None))
    ]
    graph = helper.make_graph([node], "one", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_an_output_without_a_shape_is_read(tmp_path: Path) -> None:
    model = load_model(saved(helper.make_node("Relu", ["x"], ["y"]), tmp_path / "m.onnx"))
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert model.graph.outputs[0].shape is None


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Relu", ["x"], ["y"], axis=1), "Unrecognized attribute: axis"),
        (helper.make_node("Relu", ["z"], ["y"]), "input 'z' of node"),
        (helper.make_node("NoSuchOperator", ["x"], ["y"]), "NoSuchOperator"),
    ],
)
def test_other_faults_are_still_found(node: onnx.NodeProto, words: str, tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="fails onnx's check") as refused:
        load_model(saved(node, tmp_path / "m.onnx"))
    assert words in refused.value.message
    assert refused.value.hint
