"""Einsum layers and biases of several dimensions as MatMul and Add."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lampq_onnx.graph.layers import find_layers
from lampq_onnx.importer.plain_layers import PlainLayers

LETTERS = {"b": 2, "q": 5, "d": 6, "h": 3, "k": 2, "e": 4}


def einsum(equation: str) -> ir.Model:
    """Einsum of x and a constant; the operand that is constant has letters that are sizes of weights."""
    operands = equation.replace(" ", "").split("->")[0].split(",")
    weight = next(term for term in operands if "q" not in term)
    (activation,) = (term for term in operands if term != weight)
    random = np.random.default_rng(0)
    array = random.normal(size=[LETTERS[letter] for letter in weight]).astype(np.float32)
    sizes = [LETTERS[letter] for letter in activation.replace("...", "bq")]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *sizes[1:]])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    inputs = ["w.weight" if term == weight else "x" for term in operands]
    node = onnx.helper.make_node("Einsum", inputs, ["y"], equation=equation)
    graph = onnx.helper.make_graph([node], "g", [x], [y], [onnx.numpy_helper.from_array(array, "w.weight")])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    shape = [2 if isinstance(d, str) else d for d in session.get_inputs()[0].shape]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    "equation",
    [
        "bqd,de->bqe", "bqd,ed->bqe", "de,bqd->bqe", "...qd,de->...qe", "bqd , de -> bqe", "bqhk,hkd->bqd",
        "bqd,dhk->bqhk", "bqd,hkd->bqhk", "bqhk,khd->bqd", "bqd,dhk->bqkh", "bqhk,dhk->bqd",
    ],
)  # fmt: skip
def test_products_with_weights_become_matrix_products(equation: str) -> None:
    model = einsum(equation)
    wanted = run(model)
    step = PlainLayers()
    step(model)
    assert step.count == 1
    assert {node.op_type for node in model.graph} <= {"MatMul", "Reshape"}
    np.testing.assert_allclose(run(model), wanted, rtol=1e-5, atol=1e-5)
    (layer,) = find_layers(model.graph)
    assert layer.name == "w"


@pytest.mark.parametrize("equation", ["bqd,bde->bqe", "bqd,de->beq", "qd,de->q", "bdq,de->bqe", "bqd,e->bqde"])
def test_other_products_are_left_alone(equation: str) -> None:
    model = einsum(equation)
    step = PlainLayers()
    step(model)
    assert step.count == 0
    assert [node.op_type for node in model.graph] == ["Einsum"]


@pytest.mark.parametrize(
    ("shape", "plain"), [((1, 1, 4), True), ((1, 4), True), ((1, 1, 1, 4), False), ((5, 1), False)]
)
def test_biases_of_several_dimensions(shape: tuple[int, ...], plain: bool) -> None:
    """One of more dimensions than the product makes the result larger, and one of rows is no bias."""
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\ng (float[n,5,6] x) => (float y) {\np=MatMul(x,w)\ny=Add(p,c)\n}'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, size in (("w", (6, 4)), ("c", shape)):
        array = random.normal(size=size).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    wanted = run(model)
    step = PlainLayers()
    step(model)
    assert step.count == plain
    np.testing.assert_array_equal(run(model), wanted)
    (layer,) = find_layers(model.graph)
    assert (layer.bias is not None) == plain


def test_a_constant_that_others_read_stays_as_it_is() -> None:
    model = einsum("bqd,ed->bqe")
    graph = model.graph
    other = ir.node("Identity", [graph.initializers["w.weight"]])
    other.outputs[0].name, other.outputs[0].type = "same", ir.TensorType(ir.DataType.FLOAT)
    graph.append(other)
    graph.outputs.append(other.outputs[0])
    before = graph.initializers["w.weight"].const_value.numpy().copy()
    PlainLayers()(model)
    np.testing.assert_array_equal(graph.initializers["w.weight"].const_value.numpy(), before)
    assert before.shape == (4, 6)
    assert find_layers(graph)[0].matrix().shape == (4, 6)
