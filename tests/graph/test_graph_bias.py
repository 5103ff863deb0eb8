"""Which constant is the bias of a layer, and which node adds it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lampq_onnx.graph.bias import bias_of, output_channels, shares_addend
from lampq_onnx.graph.layers import find_layers
from tests.converter.graphs import Builder, as_ir, reference

OUTPUTS, ROWS, INPUTS = 4, 5, 6


def node_of(model: onnx.ModelProto, operator: str) -> ir.Node:
    graph = onnx.shape_inference.infer_shapes(model)
    return next(node for node in as_ir(graph).graph if node.op_type == operator)


def added(shape: tuple[int, ...], *, left: bool = False, outputs: int = OUTPUTS) -> onnx.ModelProto:
    """MatMul and an Add of a constant."""
    b = Builder(0)
    product = b.op("MatMul", "x", b.random("fc.weight", INPUTS, outputs))
    constant = b.constant("offset", b.rng.normal(size=shape))
    b.rename(b.op("Add", *((constant, product) if left else (product, constant))), "y")
    return b.model({"x": ["n", ROWS, INPUTS]}, {"y": None})


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("shape", "is_bias"),
    [
        ((OUTPUTS,), True), ((1, OUTPUTS), True), ((1, 1, OUTPUTS), True),
        ((), True), ((1,), True), ((1, 1), True), ((1, 1, 1), True),
        ((1, 1, 1, OUTPUTS), False), ((1, 1, 1, 1), False),  # they give the result a dimension
        ((ROWS, 1), False), ((ROWS, OUTPUTS), False), ((2, 1, OUTPUTS), False), ((1, ROWS, 1), False),
    ],
)  # fmt: skip
def test_constants_behind_a_matmul(shape: tuple[int, ...], is_bias: bool, left: bool) -> None:
    model = added(shape, left=left)
    node = node_of(model, "MatMul")
    found = bias_of(node)
    assert (found is not None) == is_bias
    if found is None:
        return
    assert (found.value.name, found.position) == ("offset", 0 if left else 1)
    assert found.add is found.node
    assert found.node.op_type == "Add"
    # What the graph computes, from the vector alone.
    x = np.random.default_rng(1).normal(size=(2, ROWS, INPUTS)).astype(np.float32)
    (layer,) = find_layers(as_ir(onnx.shape_inference.infer_shapes(model)).graph)
    vector = layer.bias_vector()
    assert vector is not None
    assert vector.shape == (OUTPUTS,)
    np.testing.assert_allclose(reference(model, x), x @ layer.matrix().T + vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "is_bias"), [(1, True), (3, False)])
def test_one_output_channel_that_a_vector_would_widen(size: int, is_bias: bool) -> None:
    assert (bias_of(node_of(added((size,), outputs=1), "MatMul")) is not None) == is_bias


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize(
    ("shape", "is_bias"),
    [((), True), ((1,), True), ((OUTPUTS,), True), ((1, OUTPUTS), True), ((1, 1), True), ((ROWS, 1), False),
     ((ROWS, OUTPUTS), False)],
)  # fmt: skip
@pytest.mark.parametrize("transposed", [0, 1])
def test_the_third_input_of_a_gemm(shape: tuple[int, ...], is_bias: bool, beta: float, transposed: int) -> None:
    b = Builder(0)
    weight = b.random("fc.weight", *((OUTPUTS, INPUTS) if transposed else (INPUTS, OUTPUTS)))
    constant = b.constant("offset", b.rng.normal(size=shape))
    b.rename(b.op("Gemm", "x", weight, constant, transB=transposed, beta=beta), "y")
    model = b.model({"x": [ROWS, INPUTS]}, {"y": [ROWS, OUTPUTS]})
    found = bias_of(node_of(model, "Gemm"))
    assert (found is not None) == is_bias
    if found is not None:
        assert (found.position, found.add) == (2, None)
        x = b.rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
        (layer,) = find_layers(as_ir(model).graph)
        np.testing.assert_allclose(
            reference(model, x), x @ layer.matrix().T + found.vector(OUTPUTS), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("given", [True, False])
def test_a_computed_third_input_is_no_bias(given: bool) -> None:
    b = Builder(0)
    more = [b.op("Slice", b.op("Relu", "x"), b.ints(0), b.ints(OUTPUTS), b.ints(1))] if given else []
    b.rename(b.op("Gemm", "x", b.random("fc.weight", INPUTS, OUTPUTS), *more), "y")
    assert bias_of(node_of(b.model({"x": [ROWS, INPUTS]}, {"y": [ROWS, OUTPUTS]}), "Gemm")) is None


def test_a_convolution() -> None:
    b = Builder(0)
    b.rename(
        b.op("Conv", "x", b.random("pe.weight", OUTPUTS, 3, 2, 2), b.random("pe.bias", OUTPUTS), strides=[2, 2]), "y"
    )
    model = b.model({"x": ["n", 3, 4, 4]}, {"y": ["n", OUTPUTS, 2, 2]})
    node = node_of(model, "Conv")
    found = bias_of(node)
    assert found is not None
    assert (found.value.name, output_channels(node)) == ("pe.bias", OUTPUTS)


@pytest.mark.parametrize("other", ["operator", "graph output", "second add", "itself"])
def test_a_product_that_is_used_without_the_constant(other: str) -> None:
    b = Builder(0)
    product = b.op("MatMul", "x", b.random("fc.weight", INPUTS, OUTPUTS))
    outputs: dict[str, list[int | str] | None] = {"y": None}
    total = b.op("Add", product, product if other == "itself" else b.random("offset", OUTPUTS))
    b.rename(total, "y")
    if other == "operator":
        b.rename(b.op("Relu", product), "z")
        outputs["z"] = None
    elif other == "second add":
        b.rename(b.op("Add", b.random("more", OUTPUTS), product), "z")
        outputs["z"] = None
    elif other == "graph output":
        b.rename(product, "z")
        outputs["z"] = None
    node = node_of(b.model({"x": ["n", ROWS, INPUTS]}, outputs), "MatMul")
    assert bias_of(node) is None
    assert shares_addend(node) == (other != "itself")


def test_a_constant_that_several_layers_add() -> None:
    b = Builder(0)
    shared = b.random("shared", OUTPUTS)
    b.rename(b.op("Add", b.op("MatMul", "x", b.random("a.weight", INPUTS, OUTPUTS)), shared), "y")
    b.rename(b.op("Add", shared, b.op("MatMul", "x", b.random("b.weight", INPUTS, OUTPUTS))), "z")
    graph = as_ir(b.model({"x": ["n", ROWS, INPUTS]}, {"y": None, "z": None})).graph
    found = [bias_of(node) for node in graph if node.op_type == "MatMul"]
    assert [bias is not None and (bias.value.name, bias.position) for bias in found] == [("shared", 1), ("shared", 0)]


def test_channels_are_read_from_the_result_where_the_weight_does_not_tell() -> None:
    """As behind the operators that unpack a weight."""
    b = Builder(0)
    weight = b.op("Cast", b.constant("codes", np.ones((INPUTS, OUTPUTS)), np.int8), to=1)
    b.rename(b.op("Add", b.op("MatMul", "x", weight), b.random("offset", OUTPUTS)), "y")
    model = b.model({"x": ["n", ROWS, INPUTS]}, {"y": None})
    node = node_of(model, "MatMul")
    assert output_channels(node) == OUTPUTS
    assert bias_of(node) is not None
    assert bias_of(node, OUTPUTS + 1) is None
    assert math.prod(node.outputs[0].shape[1:]) == ROWS * OUTPUTS
