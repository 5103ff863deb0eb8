"""Passes that keep the function: what they change, when they fire, and when they must not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.order import default_graph_passes
from lampq_onnx.converter.passes import FoldShapes, RemoveMoves, SelectEarly, SplitUnbind
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import Builder, as_ir, as_proto, constants, count, kernels, plan_for, reference, run, vit

DIM, TOKENS, HEADS = 8, 5, 2


def attention_block(
    *, selected: bool = True, index: int = 0, second_reader: bool = False, seed: int = 0
) -> onnx.ModelProto:
    """One block as torch's exporter writes it: Slices for unbind, and shapes computed for the transposed keys.

    x [batch, 5, 8] -> y [batch, 4], from token ``index`` or from the mean over tokens.
    """
    b = Builder(seed)

    def layer(x: str, name: str, inputs: int, outputs: int) -> str:
        return b.op(
            "Add", b.op("MatMul", x, b.random(f"{name}.weight", inputs, outputs)), b.random(f"{name}.b", outputs)
        )

    def norm(x: str, name: str) -> str:
        return b.op("LayerNormalization", x, b.random(f"{name}.g", DIM), b.random(f"{name}.s", DIM), axis=-1)

    qkv = b.op("Reshape", layer(norm("x", "n1"), "qkv", DIM, 3 * DIM), b.ints(-1, TOKENS, 3, HEADS, DIM // HEADS))
    qkv = b.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.op("Squeeze", b.op("Slice", qkv, b.ints(i), b.ints(i + 1), b.ints(0)), b.ints(0)) for i in range(3))
    shape = b.op("Shape", k)
    last = b.op("Slice", shape, b.ints(-1), b.ints(np.iinfo(np.int64).max))
    middle = b.op("Slice", shape, b.ints(-2), b.ints(-1))
    lead = b.op("Slice", shape, b.ints(np.iinfo(np.int64).min), b.ints(-2))
    flat = b.op("Reshape", k, b.op("Concat", b.ints(-1), middle, last, axis=0))
    keys = b.op("Reshape", b.op("Transpose", flat, perm=[0, 2, 1]), b.op("Concat", lead, last, middle, axis=0))
    scale = b.constant("scale", 0.7)
    weights = b.op("Softmax", b.op("MatMul", b.op("Mul", q, scale), b.op("Mul", keys, scale)), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    x = b.op("Add", "x", layer(b.op("Reshape", mixed, b.ints(-1, TOKENS, DIM)), "proj", DIM, DIM))
    hidden = b.op("Gelu", layer(norm(x, "n2"), "fc1", DIM, 2 * DIM))
    x = norm(b.op("Add", x, layer(hidden, "fc2", 2 * DIM, DIM)), "n3")
    if selected:
        pooled = b.op("Gather", x, b.constant("index", index, np.int64), axis=1, name="select")
    else:
        pooled = b.op("ReduceMean", x, b.ints(1), keepdims=0)
    b.rename(b.op("Gemm", pooled, b.random("head.weight", DIM, 4), b.random("head.b", 4)), "y")
    outputs: dict[str, list[int | str] | None] = {"y": ["batch", 4]}
    if second_reader:
        outputs["all"] = None
        b.rename(x, "all")
    return b.model({"x": ["batch", TOKENS, DIM]}, outputs)


def apply(model: onnx.ModelProto, *passes: CountingPass) -> tuple[onnx.ModelProto, list[int]]:
    graph = as_ir(model)
    for step in passes:
        step(graph)
    return as_proto(graph), [step.count for step in passes]


def images(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, TOKENS, DIM)).astype(np.float32)


def same(first: onnx.ModelProto, second: onnx.ModelProto, x: np.ndarray) -> None:
    """Against onnx's own evaluator and against onnxruntime without optimizations."""
    wanted = reference(first, x)
    for found in (reference(second, x), run(second, x)):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_each_pass_fires_and_keeps_the_function() -> None:
    model = attention_block()
    passes = default_graph_passes()
    for step in passes:
        changed, (fired,) = apply(model, step)
        assert fired > 0, type(step).__name__
        for batch in (1, 3):
            same(model, changed, images(batch))
        model = changed
    assert [type(step) for step in passes] == [FoldShapes, RemoveMoves, SplitUnbind, SelectEarly]


def test_shape_chains_leave_constants() -> None:
    changed, (fired,) = apply(attention_block(), FoldShapes())
    assert fired == 2
    assert count(changed, "Shape") == count(changed, "Concat") == 0
    values = constants(changed)
    targets = [values[node.input[1]].tolist() for node in changed.graph.node if node.op_type == "Reshape"]
    assert targets == [[-1, 5, 3, 2, 4], [-1, 5, 4], [-1, 2, 4, 5], [-1, 5, 8]]


def test_two_unknown_dimensions_are_left() -> None:
    b = Builder()
    shape = b.op("Shape", "x")
    target = b.op("Concat", b.op("Slice", shape, b.ints(0), b.ints(2)), b.ints(2, 4), axis=0)
    b.rename(b.op("Reshape", "x", target), "y")
    model = b.model({"x": ["batch", "tokens", 8]}, {"y": ["batch", "tokens", 2, 4]})
    changed, (fired,) = apply(model, FoldShapes())
    assert fired == 0
    assert count(changed, "Shape") == 1


def test_transposed_keys_take_one_transpose_and_fuse() -> None:
    changed, counts = apply(attention_block(), FoldShapes(), RemoveMoves())
    assert counts == [2, 1]
    assert count(changed, "Reshape") == 2
    assert kernels(changed).count("FusedMatMul") == 1
    assert len(kernels(changed)) < len(kernels(attention_block()))


def test_a_reshape_to_the_same_shape_goes() -> None:
    b = Builder()
    x = b.op("Reshape", "x", b.ints(-1, 5, 8))
    b.rename(b.op("Relu", b.op("Transpose", x, perm=[0, 1, 2])), "y")
    model = b.model({"x": ["batch", 5, 8]}, {"y": ["batch", 5, 8]})
    changed, (fired,) = apply(model, RemoveMoves())
    assert fired == 2
    assert [node.op_type for node in changed.graph.node if node.op_type != "Identity"] == ["Relu"]
    same(model, changed, images())


def test_unbind_is_one_split_for_slices_and_gathers() -> None:
    for model in (attention_block(), vit(blocks=1)):
        changed, (fired,) = apply(model, SplitUnbind())
        assert fired == 1
        assert count(changed, "Split") == 1
        assert count(changed, "Squeeze") == 3
        assert count(changed, "Slice") == count(model, "Slice") - 3 * (count(model, "Gather") == 1)


def test_an_incomplete_unbind_is_left() -> None:
    b = Builder()
    parts = [b.op("Gather", "x", b.constant(f"i{i}", i, np.int64), axis=1) for i in (0, 2)]
    b.rename(b.op("Add", *parts), "y")
    model = b.model({"x": ["batch", 3, 8]}, {"y": ["batch", 8]})
    assert apply(model, SplitUnbind())[1] == [0]


@pytest.mark.parametrize("index", [0, 3, -1])
def test_one_token_is_chosen_before_the_layers(index: int) -> None:
    model = attention_block(index=index)
    changed, (_, _, _, fired) = apply(model, *default_graph_passes())
    assert fired == 17
    same(model, changed, images())
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
        for value in onnx.shape_inference.infer_shapes(changed, data_prop=True).graph.value_info
    }
    hidden = next(node.output[0] for node in changed.graph.node if node.op_type == "Gelu")
    assert shapes[hidden] == [1, 16]
    softmax = next(node.output[0] for node in changed.graph.node if node.op_type == "Softmax")
    assert shapes[softmax] == [HEADS, 1, TOKENS]


def test_tokens_that_are_read_stay() -> None:
    for model in (attention_block(selected=False), attention_block(second_reader=True)):
        changed, (fired,) = apply(model, SelectEarly())
        assert fired == 0
        same(model, changed, images())


def test_quantized_files_give_the_same_answers_with_and_without() -> None:
    model = attention_block()
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    plan: BitPlan = plan_for(names, weight_bits=4)
    target = TARGETS["onnxruntime-x86-vnni"]
    fast = convert_model(as_ir(model), plan, target=target)
    plain = convert_model(as_ir(model), plan, target=target, graph_passes=[])
    assert fast.passes["SelectEarly"] == 17
    assert "SelectEarly" not in plain.passes
    files = as_proto(fast.model), as_proto(plain.model)
    assert np.allclose(run(files[0], images()), run(files[1], images()), rtol=1e-5, atol=1e-5)
    found = kernels(files[0])
    # Queries, keys and values are three products of one layer, with a bias each.
    assert found.count("MatMulIntegerToFloat") + found.count("QGemm") == len(names) + 2
    assert found.count("QGemm") == fast.passes["BiasInGemm"] == 3
    assert found.count("BiasGelu") == found.count("FusedMatMul") == 1
