"""Rows of (tokens, batch) in front of attention: the same bits, no moved heads, and nothing changed elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lampq_onnx.converter import Conversion, convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.converter.passes import TokensFirst
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import LEVELS, Builder, as_ir, as_proto, kernels, plan_for, reference, run, vit

VNNI = TARGETS["onnxruntime-x86-vnni"]
HEADS, WIDTH, TOKENS = 2, 4, 3
DIM = HEADS * WIDTH


def attention(case: str = "") -> onnx.ModelProto:
    """x [n, 3, 8] -> queries, keys and values of two heads -> attention -> [n, 3, 8]."""
    b = Builder(0)
    heads = []
    for name in "qkv":
        source = b.op("Relu", "x") if case == "two inputs" and name == "q" else "x"
        y = b.op("Add", b.op("MatMul", source, b.random(f"{name}.weight", DIM, DIM)), b.random(f"{name}.bias", DIM))
        y = b.op("Reshape", y, b.ints(-1, TOKENS, HEADS, WIDTH))
        if case == "scaled before":
            y = b.op("Mul", y, b.constant(f"root.{name}", WIDTH**-0.25))
        moved = b.op("Transpose", y, perm=[0, 2, 1, 3])
        if case == "heads read" and name == "v":
            moved = b.op("Mul", moved, b.op("ReduceMean", y, b.ints(1, 2, 3)))
        heads.append(moved)
    q, k, v = heads
    if case == "scaled":
        root = b.constant("root", WIDTH**-0.25)
        q, k = b.op("Mul", q, root), b.op("Mul", root, k)
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    if case == "mask":
        scores = b.op("Add", scores, b.random("mask", TOKENS, TOKENS))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    joined = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.ints(-1, TOKENS, DIM))
    y = b.op("MatMul", joined, b.random("proj.weight", DIM, DIM))
    if case == "another layer":  # it reads the same input, and has no heads
        gate = b.op("Add", b.op("MatMul", "x", b.random("gate.weight", DIM, DIM)), b.random("gate.bias", DIM))
        y = b.op("Add", y, gate)
    b.rename(y, "y")
    return b.model({"x": ["n", TOKENS, DIM]}, {"y": ["n", TOKENS, DIM]})


def both(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> tuple[Conversion, Conversion]:
    """Convert with and without the pass."""
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)], low=-3.0, high=3.0)
    after = convert_model(as_ir(model), plan, target=VNNI)
    monkeypatch.setattr(TokensFirst, "apply", lambda *_: 0)
    return after, convert_model(as_ir(model), plan, target=VNNI)


@pytest.mark.parametrize(("case", "inputs"), [("", 1), ("scaled", 1), ("mask", 1), ("two inputs", 2)])
def test_the_same_bits_and_no_transpose_of_float_values(
    case: str, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, before = both(attention(case), monkeypatch)
    assert after.passes["TokensFirst"] == inputs
    new, old = as_proto(after.model), as_proto(before.model)
    onnx.checker.check_model(new, full_check=True)
    x = np.random.default_rng(1).uniform(-3, 3, (4, TOKENS, DIM)).astype(np.float32)
    for level in (LEVELS[0], LEVELS[-1]):
        np.testing.assert_array_equal(run(new, x, level), run(old, x, level))
    np.testing.assert_allclose(reference(new, x), run(old, x, LEVELS[0]), rtol=0, atol=0.05)
    # Left: one for each input, in uint8, and the one behind attention. Three of float values are gone.
    assert kernels(new).count("Transpose") == inputs + 1
    assert kernels(old).count("Transpose") == 4
    assert kernels(new).count("FusedMatMul") == 2
    assert kernels(new).count("QGemm") == kernels(old).count("QGemm") >= 3


@pytest.mark.parametrize("case", ["another layer", "heads read", "scaled before"])
def test_values_that_others_read_too_keep_their_order(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    after, before = both(attention(case), monkeypatch)
    assert after.passes["TokensFirst"] == 0
    assert as_proto(after.model).graph.node == as_proto(before.model).graph.node


def test_a_transformer_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    after, before = both(vit(), monkeypatch)
    assert after.passes["TokensFirst"] == 2
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    for level in (LEVELS[0], LEVELS[-1]):
        found, wanted = (run(as_proto(file.model), x, level) for file in (after, before))
        np.testing.assert_array_equal(found, wanted)


def test_values_in_another_order_have_no_names_of_the_float_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attention()
    after, _ = both(model, monkeypatch)
    written = {output for node in model.graph.node for output in node.output}
    layers = {layer.name: layer for layer in inspect_model(after.model)}
    for name in "qkv":
        assert not set(layers[name].outputs) & written, name


def test_a_fixed_batch_stays_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(["q", "k", "v", "proj"], low=-3.0, high=3.0)
    after = convert_model(as_ir(attention()), plan, target=VNNI, batch=2)
    assert after.passes["TokensFirst"] == 1
    monkeypatch.setattr(TokensFirst, "apply", lambda *_: 0)
    before = convert_model(as_ir(attention()), plan, target=VNNI, batch=2)
    x = np.random.default_rng(1).uniform(-3, 3, (2, TOKENS, DIM)).astype(np.float32)
    found, wanted = (run(as_proto(file.model), x, LEVELS[-1]) for file in (after, before))
    np.testing.assert_array_equal(found, wanted)


def test_other_targets_and_the_operator_attention_keep_what_they_have() -> None:
    plan = plan_for([layer.name for layer in find_layers(as_ir(vit()).graph)])
    avx2 = convert_model(as_ir(vit()), plan, target=TARGETS["onnxruntime-x86-avx2"])
    operator = convert_model(as_ir(vit()), plan, target=VNNI, one_attention=True)
    assert avx2.passes["TokensFirst"] == operator.passes["TokensFirst"] == 0
    assert operator.passes["OneAttention"] == 2
