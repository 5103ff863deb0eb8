"""The pass to float16: which nodes it takes, and what the file computes then."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lampq_onnx.converter.order import graph_steps
from lampq_onnx.converter.passes import ToFloat16
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.steps import run_steps
from tests.converter.graphs import Builder, as_ir, as_proto, reference, run, vit


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 4, 4)).astype(np.float32)


def converted(model: onnx.ModelProto, wide: tuple[str, ...] = ()) -> tuple[onnx.ModelProto, int]:
    graph = as_ir(model)
    found = ToFloat16(wide)
    found(graph)
    proto = as_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto, found.count


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every value by name, as the onnx package infers it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


def test_a_transformer_computes_in_float16_between_float32_images_and_answers() -> None:
    model = vit()
    proto, count = converted(model)
    found = kinds(proto)
    assert found[proto.graph.input[0].name] == found[proto.graph.output[0].name] == TensorProto.FLOAT
    assert [v.name for v in proto.graph.output] == [v.name for v in model.graph.output]
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2
    inner = {name for node in proto.graph.node if node.op_type != "Cast" for name in node.output}
    assert count > 10
    assert not [name for name in inner if found[name] == TensorProto.FLOAT]
    wanted, got = reference(model, images()), reference(proto, images())
    assert got.dtype == np.float32
    assert 1e-5 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 5e-3
    for opset_pass in (run(proto, images()),):
        assert np.linalg.norm(opset_pass - wanted) < 5e-3 * np.linalg.norm(wanted)


def huge() -> onnx.ModelProto:
    """x -> 300 x -> (300 x)^2 -> back again: the square of 300 overflows."""
    builder = Builder()
    large = builder.op("Mul", "x", builder.constant("large", 300.0))
    square = builder.rename(builder.op("Mul", large, large), "square")
    root = builder.op("Sqrt", square)
    builder.rename(builder.op("Div", root, "large"), "y")
    return builder.model({"x": ["n", 4]}, {"y": ["n", 4]})


def test_what_overflows_stays_in_float32() -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    broken, _ = converted(huge())
    assert np.isinf(reference(broken, x)).any()
    proto, count = converted(huge(), ("square",))
    assert count == 2
    np.testing.assert_allclose(reference(proto, x), x, rtol=2e-3)
    found = kinds(proto)
    assert found["square"] == TensorProto.FLOAT
    writers = {name: node for node in proto.graph.node for name in node.output}
    assert [found[name] for name in writers["square"].input] == [TensorProto.FLOAT] * 2
    # Both factors are the same value, which is cast once.
    assert len(set(writers["square"].input)) == 1


def test_a_constant_that_overflows_keeps_its_reader_in_float32_and_minus_infinity_does_not() -> None:
    builder = Builder()
    masked = builder.op("Add", "x", builder.constant("mask", [-np.inf, 0, 0, 0]))
    soft = builder.op("Softmax", masked)
    scaled = builder.rename(builder.op("Mul", soft, builder.constant("big", 1e6)), "scaled")
    builder.rename(builder.op("Div", scaled, "big"), "y")
    model = builder.model({"x": ["n", 4]}, {"y": ["n", 4]})
    proto, count = converted(model)
    assert count == 2
    found = kinds(proto)
    assert found["scaled"] == TensorProto.FLOAT
    tensors = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert tensors["big"] == TensorProto.FLOAT
    assert TensorProto.FLOAT16 in {kind for name, kind in tensors.items() if name.startswith("mask")}
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(reference(proto, x), reference(model, x), atol=2e-3)


def test_operands_that_the_standard_wants_in_float32_stay() -> None:
    builder = Builder()
    scales = builder.constant("scales", [1, 1, 2, 2])
    builder.rename(builder.op("Resize", "x", "", scales, mode="nearest"), "y")
    model = builder.model({"x": ["n", 3, 4, 4]}, {"y": ["n", 3, 8, 8]})
    proto, count = converted(model)
    assert count == 1
    (resize,) = [node for node in proto.graph.node if node.op_type == "Resize"]
    found = kinds(proto)
    assert (found[resize.input[0]], found[resize.input[2]]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    np.testing.assert_allclose(reference(proto, images()), reference(model, images()), rtol=1e-3)


def test_types_inside_nodes_follow() -> None:
    builder = Builder()
    filled = builder.op(
        "ConstantOfShape", builder.ints(4), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    )
    whole = builder.op("Cast", builder.op("Cast", "x", to=TensorProto.INT32), to=TensorProto.FLOAT)
    builder.rename(builder.op("Add", whole, filled), "y")
    model = builder.model({"x": ["n", 4]}, {"y": ["n", 4]})
    proto, _ = converted(model)
    x = np.array([[1.2, 2.8, -3.1, 100.0]], np.float32)
    np.testing.assert_array_equal(reference(proto, x), reference(model, x))
    assert kinds(proto)["y"] == TensorProto.FLOAT


def test_a_dequantized_weight_goes_with_its_product_and_the_product_with_its_bias() -> None:
    weight = np.arange(24, dtype=np.int8).reshape(4, 6)
    builder = Builder(opset=21)
    dequantized = builder.op(
        "DequantizeLinear", builder.constant("w", weight, np.int8), builder.constant("s", np.full(6, 1e-2)), axis=1
    )
    product = builder.op("MatMul", "x", dequantized, name="fc")
    builder.rename(builder.op("Add", product, builder.constant("b", np.full(6, 7e4))), "y")
    model = builder.model({"x": ["n", 3, 4]}, {"y": ["n", 3, 6]})
    next(node for node in model.graph.node if node.name == "fc").metadata_props.add(key="lampq_onnx.unit", value="fc")
    x = np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32)
    # The bias does not fit in float16: all three compute in float32.
    proto, count = converted(model)
    assert count == 0
    assert "Cast" not in Counter(node.op_type for node in proto.graph.node)
    np.testing.assert_array_equal(reference(proto, x), reference(model, x))
    builder.constants["b"] = np.full(6, 7, np.float32)
    proto, count = converted(builder.model({"x": ["n", 3, 4]}, {"y": ["n", 3, 6]}))
    assert count == 3
    assert Counter(node.op_type for node in proto.graph.node)["Cast"] == 2


def test_the_passes_before_it_change_nothing_about_the_result() -> None:
    graph = as_ir(vit())
    run_steps(graph, graph_steps())
    ToFloat16()(graph)
    proto = as_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    wanted = reference(vit(), images())
    assert np.linalg.norm(reference(proto, images()) - wanted) < 5e-3 * np.linalg.norm(wanted)


def test_inner_graphs_are_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["a"])], "g", [], [helper.make_tensor_value_info("a", 1, ["n", 4])]
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [node],
        "top",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [helper.make_tensor("flag", TensorProto.BOOL, [], [True])],
    )
    model = as_ir(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    with pytest.raises(LampqError, match="If, Loop or Scan"):
        ToFloat16()(model)


def test_constants_near_zero_do_not_become_zero() -> None:
    b = Builder()
    norm = b.op("Clip", b.op("ReduceL2", "x", b.ints(-1)), b.constant("least", 1e-12))
    b.rename(b.op("Div", "x", norm), "y")
    model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    found, _ = converted(model)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    x[0, 0] = 0
    np.testing.assert_allclose(reference(found, x), reference(model, x), atol=2e-3)
