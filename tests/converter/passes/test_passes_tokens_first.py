"""Rows of (tokens, batch) in front of attention: the same numbers, no moved heads, and nothing changed elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from lampq_onnx.converter import Conversion, convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.converter.passes import TokensFirst
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    kernels,
    plan_for,
    reference,
    run,
    session,
    vit,
)

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
    """Convert with and without the pass; weights of 7 bits are exact on every processor."""
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)], weight_bits=7, low=-3.0, high=3.0)
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


def heads_of(b: Builder, source: str, name: str, tokens: int, *, bias: bool = True, batch: int = -1) -> str:
    """source [n, tokens, 8] -> a layer -> [n, 2, tokens, 4]."""
    if f"{name}.weight" not in b.constants:
        b.random(f"{name}.weight", DIM, DIM)
        b.random(f"{name}.bias", DIM)
    y = b.op("MatMul", source, f"{name}.weight")
    y = b.op("Add", y, f"{name}.bias") if bias else y
    return b.op("Transpose", b.op("Reshape", y, b.ints(batch, tokens, HEADS, WIDTH)), perm=[0, 2, 1, 3])


def attend(b: Builder, q: str, k: str, v: str, tokens: int, mask: str = "") -> str:
    """Attention of heads -> [n, tokens, 8]."""
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    if mask:
        scores = b.op("Add", scores, mask)
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    return b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.ints(-1, tokens, DIM))


def other_attention(case: str) -> onnx.ModelProto:
    """x [n, 3, 8] (windows: [n, 6, 8], two windows of 3 tokens) -> attention of ``case``."""
    b = Builder(0)
    inputs: dict[str, list[int | str]] = {"x": ["n", TOKENS, DIM]}
    outputs: dict[str, list[int | str] | None] = {"y": None}
    if case == "windows":
        inputs["x"] = ["n", 2 * TOKENS, DIM]
        windows = b.op("Reshape", "x", b.ints(-1, TOKENS, DIM))
        q, k, v = (heads_of(b, windows, name, TOKENS) for name in "qkv")
        y = attend(b, q, k, v, TOKENS, b.random("position", 1, HEADS, TOKENS, TOKENS))
        y = b.op("Reshape", y, b.ints(-1, 2 * TOKENS, DIM))
    elif case == "one set of queries":
        inputs["z"] = [1, TOKENS, DIM]
        y = attend(b, heads_of(b, "z", "q", TOKENS), *(heads_of(b, "x", name, TOKENS) for name in "kv"), TOKENS)
    elif case.startswith("cross"):
        inputs["z"] = ["m" if case == "cross, other batch" else "n", 5, DIM]
        y = attend(b, heads_of(b, "x", "q", TOKENS), *(heads_of(b, "z", name, 5) for name in "kv"), TOKENS)
    elif case == "called twice":
        y = attend(b, *(heads_of(b, "x", name, TOKENS) for name in "qkv"), TOKENS)
        y = attend(b, *(heads_of(b, y, name, TOKENS) for name in "qkv"), TOKENS)
    else:
        q, k, v = (heads_of(b, "x", name, TOKENS, bias=case != "keys without a bias" or name != "k") for name in "qkv")
        mask = "mask" if case == "a mask for each image" else ""
        if mask:
            inputs["mask"] = ["n", 1, TOKENS, TOKENS]
        if case == "heads are an output":
            outputs[b.rename(v, "heads")] = None
            v = "heads"
        y = attend(b, q, k, v, TOKENS, mask)
    b.rename(b.op("MatMul", y, b.random("proj.weight", DIM, DIM)), "y")
    return b.model(inputs, outputs)


@pytest.mark.parametrize(
    ("case", "inputs"),
    [
        ("windows", 1), ("cross", 2), ("called twice", 2),
        # Batches that are not equal, or not known to be, and heads that are read elsewhere.
        ("cross, other batch", 0), ("one set of queries", 0), ("a mask for each image", 0), ("heads are an output", 0),
        ("keys without a bias", 0),
    ],
)  # fmt: skip
def test_batches_and_heads_of_a_product_are_the_same(case: str, inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = other_attention(case)
    after, before = both(model, monkeypatch)
    assert after.passes["TokensFirst"] == inputs
    random = np.random.default_rng(2)
    feeds = {}
    for value in model.graph.input:
        sizes = [d.dim_value or 4 for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = random.uniform(-3, 3, sizes).astype(np.float32)
    new, old = as_proto(after.model), as_proto(before.model)
    wanted = ReferenceEvaluator(new).run(None, feeds)
    for level in (LEVELS[0], LEVELS[-1]):
        found, unpatched = (session(file, level).run(None, feeds) for file in (new, old))
        for one, other, right in zip(found, unpatched, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(one, right, rtol=0, atol=0.05)


def test_large_heads_give_the_same_but_for_the_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, width = 67, 64
    monkeypatch.setitem(globals(), "TOKENS", tokens)
    monkeypatch.setitem(globals(), "WIDTH", width)
    monkeypatch.setitem(globals(), "DIM", HEADS * width)
    after, before = both(attention("scaled"), monkeypatch)
    assert after.passes["TokensFirst"] == 1
    x = np.random.default_rng(1).uniform(-3, 3, (1, tokens, HEADS * width)).astype(np.float32)
    new, old = as_proto(after.model), as_proto(before.model)
    np.testing.assert_array_equal(run(new, x, LEVELS[0]), run(old, x, LEVELS[0]))
    # FusedMatMul adds in another order then, and one level of the input of proj falls on the other side of a half.
    np.testing.assert_allclose(run(new, x, LEVELS[-1]), run(old, x, LEVELS[-1]), rtol=0, atol=0.02)
    assert np.abs(run(new, x, LEVELS[-1]) - run(old, x, LEVELS[-1])).mean() < 1e-3


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
