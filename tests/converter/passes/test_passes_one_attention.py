"""Attention as one operator: the same function, wherever factors stand, and only for layers that it computes."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.converter import Conversion, convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.overflows import Overflows, write_overflows
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import LEVELS, Builder, as_ir, as_proto, plan_for, plan_on, reference, run, vit

HEADS, WIDTH, TOKENS = 2, 4, 3
DIM = HEADS * WIDTH


def converted(
    model: onnx.ModelProto, plan: BitPlan, name: str = "onnxruntime-x86-vnni", *, one: bool = True
) -> Conversion:
    return convert_model(as_ir(model), plan, target=TARGETS[name], one_attention=one)


def attention(*, factor: str = "both", case: str = "", opset: int = 20, keys: int = TOKENS) -> onnx.ModelProto:
    """x [n, 3, 8] -> q, k, v of two heads -> attention -> [n, 3, 8]; ``factor``: where the scale stands."""
    b = Builder(0, opset=opset)
    heads = []
    for name in "qkv":
        source = "x" if name == "q" or case != "cross" else "z"
        y = b.op("Reshape", b.op("MatMul", source, b.random(f"{name}.weight", DIM, DIM)), b.ints(0, 0, HEADS, WIDTH))
        heads.append(b.op("Transpose", y, perm=[0, 2, 1, 3]))
    q, k, v = heads
    if case == "values scaled":
        v = b.op("Mul", v, b.constant("three", 3.0))
    k = b.op("Transpose", k, perm=[0, 1, 3, 2])
    if factor == "both":
        root = b.constant("root", WIDTH**-0.25)
        q, k = b.op("Mul", q, root), b.op("Mul", root, k)
    scores = b.op("MatMul", q, k)
    if factor == "div":
        scores = b.op("Div", scores, b.constant("root", WIDTH**0.5))
    if case == "mask":
        scores = b.op("Add", scores, b.random("mask", TOKENS, TOKENS))
    probabilities = b.op("Softmax", scores, axis=2 if case == "axis" else -1)
    mixed = b.op("MatMul", probabilities, v)
    if case == "scores read":
        mixed = b.op("Mul", mixed, b.op("ReduceMean", probabilities, b.ints(1, 2, 3)))
    back = mixed if case == "not back" else b.op("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = b.op("Reshape", back, b.ints(-1, TOKENS, DIM))
    b.rename(b.op("MatMul", joined, b.random("proj.weight", DIM, DIM)), "y")
    inputs = {"x": ["n", TOKENS, DIM]}
    if case == "cross":
        inputs["z"] = ["n", keys, DIM]
    return b.model(inputs, {"y": ["n", TOKENS, DIM]})


@pytest.mark.parametrize("factor", ["both", "div", "none"])
@pytest.mark.parametrize("name", ["onnxruntime-x86-vnni", "onnxruntime-x86-avx2"])
def test_the_same_function_as_the_operators(factor: str, name: str) -> None:
    model = attention(factor=factor)
    plan = plan_for(["q", "k", "v", "proj"], weight_bits=7, low=-3.0, high=3.0)
    one, parts = converted(model, plan, name), converted(model, plan, name, one=False)
    assert (one.passes["OneAttention"], parts.passes["OneAttention"]) == (1, 0)
    inside, outside = as_proto(one.model), as_proto(parts.model)
    onnx.checker.check_model(inside, full_check=True)
    kinds = [node.op_type for node in inside.graph.node]
    assert "Softmax" not in kinds
    assert "Transpose" not in kinds
    assert inside.opset_import[0].version == 23
    assert outside.opset_import[0].version == 20
    x = np.random.default_rng(1).normal(size=(4, TOKENS, DIM)).astype(np.float32)
    wanted = reference(outside, x)
    # One level of the input of proj may fall on the other side of a half.
    tolerance = 0.05 * np.abs(wanted).max()
    np.testing.assert_allclose(reference(inside, x), wanted, rtol=0, atol=tolerance)
    assert np.abs(reference(inside, x) - wanted).mean() < 1e-3 * np.abs(wanted).mean()
    for level in (LEVELS[0], LEVELS[-1]):
        np.testing.assert_allclose(run(inside, x, level), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("mask", "an? Add stands between"), ("axis", "not over the last"), ("not back", "not moved back"),
        ("scores read", ""), ("values scaled", "values are multiplied"),
    ],
)  # fmt: skip
def test_other_layers_keep_their_operators(case: str, why: str) -> None:
    model = attention(case=case)
    plan = plan_for(["q", "k", "v", "proj"])
    found = converted(model, plan)
    assert found.passes["OneAttention"] == 0
    reasons = [refusal.reason for refusal in found.refusals if refusal.step == "OneAttention"]
    assert len(reasons) == bool(why)
    assert all(re.search(why, reason) for reason in reasons)
    x = np.random.default_rng(1).normal(size=(2, TOKENS, DIM)).astype(np.float32)
    outside = as_proto(converted(model, plan, one=False).model)
    np.testing.assert_allclose(run(as_proto(found.model), x, LEVELS[0]), run(outside, x, LEVELS[0]), atol=1e-5)


def test_scores_that_overflow_in_float16_keep_their_operators() -> None:
    model = attention(factor="div")
    for tensor in model.graph.initializer:
        if tensor.name in ("q.weight", "k.weight"):
            tensor.CopyFrom(numpy_helper.from_array(2000 * numpy_helper.to_array(tensor), tensor.name))
    nodes = {node.op_type: node for node in model.graph.node}
    scores = [node.output[0] for node in model.graph.node if nodes["Div"].input[0] in node.output]
    graph = as_ir(model)
    write_overflows(graph, Overflows((*scores, nodes["Div"].output[0])))
    target = TARGETS["onnxruntime-cuda"]
    found = convert_model(graph, plan_on(target, ["q", "k", "v", "proj"], 8), target=target, one_attention=True)
    assert found.passes["OneAttention"] == 0
    assert "overflow in float16" in next(r.reason for r in found.refusals if r.step == "OneAttention")
    x = np.random.default_rng(1).normal(size=(4, TOKENS, DIM)).astype(np.float32)
    wanted = reference(model, x)
    assert np.linalg.norm(reference(as_proto(found.model), x) - wanted) < 0.05 * np.linalg.norm(wanted)


def test_cross_attention_with_other_keys_is_one_operator_too() -> None:
    model = attention(case="cross", keys=5)
    plan = plan_for(["q", "k", "v", "proj"])
    one, parts = (as_proto(converted(model, plan, one=flag).model) for flag in (True, False))
    assert "Attention" in [node.op_type for node in one.graph.node]
    random = np.random.default_rng(0)
    feeds = {
        "x": random.normal(size=(2, TOKENS, DIM)).astype(np.float32),
        "z": random.normal(size=(2, 5, DIM)).astype(np.float32),
    }
    found, wanted = (ort.InferenceSession(m.SerializeToString()).run(None, feeds)[0] for m in (one, parts))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.05 * np.abs(wanted).max())


def test_a_transformer_keeps_its_layers() -> None:
    model = vit()
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)])
    one, parts = converted(model, plan), converted(model, plan, one=False)
    assert one.passes["OneAttention"] == 2
    assert one.passes["BiasInGemm"] == parts.passes["BiasInGemm"]
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    found, wanted = (run(as_proto(result.model), x, LEVELS[-1]) for result in (one, parts))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.05)


def test_nothing_changes_unless_it_is_asked_for() -> None:
    model, plan = attention(), plan_for(["q", "k", "v", "proj"])
    found = converted(model, plan, one=False)
    assert not [refusal for refusal in found.refusals if refusal.step == "OneAttention"]
    assert "Softmax" in [node.op_type for node in as_proto(found.model).graph.node]


def test_a_graph_without_attention_keeps_its_opset() -> None:
    b = Builder(0)
    b.rename(b.op("MatMul", "x", b.random("fc.weight", 8, 8)), "y")
    found = converted(b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]}), plan_for(["fc"]))
    assert found.model.opset_imports[""] == 20


def test_a_target_that_does_not_read_the_operator_refuses_the_option() -> None:
    with pytest.raises(LampqError, match="at most opset 20") as caught:
        converted(attention(), plan_for(["q", "k", "v", "proj"]), "openvino-x86-vnni")
    assert caught.value.hint == "leave out --attention operator"
