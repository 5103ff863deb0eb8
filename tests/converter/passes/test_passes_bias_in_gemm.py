"""Biases that the integer kernel adds: the same function, on the kernel that is meant, and only where it pays."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    kernels,
    measured,
    one_matmul,
    plan_for,
    plan_on,
    reference,
    run,
    vit,
)
from tests.processor import EXACT_INT8

TARGET = TARGETS["onnxruntime-x86-vnni"]
PLAIN = dataclasses.replace(TARGET, gemm_bias=False, rows=False)


def converted(model: onnx.ModelProto, plan: BitPlan, *, plain: bool = False) -> tuple[onnx.ModelProto, int]:
    result = convert_model(as_ir(model), plan, target=PLAIN if plain else TARGET)
    return as_proto(result.model), result.passes["BiasInGemm"]


def random_layer(inputs: int = 16, outputs: int = 8, bias_size: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(inputs, outputs)).astype(np.float32)
    return one_matmul(matrix, (bias_size * rng.normal(size=outputs)).astype(np.float32))


@pytest.mark.parametrize("bits", [1, 4, 5, 6, 7, 8])
def test_the_same_function_with_and_without(bits: int) -> None:
    model = random_layer()
    plan = plan_for(["fc"], weight_bits=bits, low=-3.0, high=2.5)
    (inside, count), (outside, none) = converted(model, plan), converted(model, plan, plain=True)
    assert (count, none) == (1, 0)
    x = np.random.default_rng(1).uniform(-3, 2.5, (4, 3, 16)).astype(np.float32)
    wanted = reference(outside, x)
    # Half a step of int32, and float32's own rounding.
    bound = 2e-6 * np.abs(wanted).max()
    data = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in inside.graph.initializer}
    bound += 0.5 * float((data["fc.input.scale"] * data["fc.weight.scale"]).max())
    np.testing.assert_allclose(reference(inside, x), wanted, rtol=0, atol=bound)
    for level in LEVELS if bits < 8 or EXACT_INT8 else LEVELS[:1]:
        np.testing.assert_allclose(run(inside, x, level), wanted, rtol=0, atol=bound)


def test_the_kernel_is_an_integer_one() -> None:
    plan = plan_for(["fc"], weight_bits=4)
    inside, _ = converted(random_layer(), plan)
    outside, _ = converted(random_layer(), plan, plain=True)
    assert "QGemm" in kernels(inside)
    assert not set(kernels(inside)) & {"Gemm", "Add", "DequantizeLinear", "Mul"}
    assert "QGemm" not in kernels(outside)


@pytest.mark.parametrize("bits", [5, 6])
def test_the_middle_of_codes_stays_their_zero_point(bits: int) -> None:
    inside, _ = converted(random_layer(), plan_for(["fc"], weight_bits=bits))
    assert "QGemm" in kernels(inside)
    data = constants(inside)
    (scaled,) = (node for node in inside.graph.node if node.input[1:2] == ["fc.weight.scale"] and node.attribute)
    np.testing.assert_array_equal(data[scaled.input[2]], np.full(8, 2 ** (bits - 1), np.int8))
    assert "lampq.zero.int8.8" not in data


def test_a_vision_transformer_keeps_its_layers_and_their_names() -> None:
    model = vit()
    plan = plan_for([graph_layer.name for graph_layer in find_layers(as_ir(model).graph)], weight_bits=5)
    (inside, count), (outside, _) = converted(model, plan), converted(model, plan, plain=True)
    # Patch embedding, and qkv, proj, fc1 and fc2 of two blocks.
    assert count >= 8
    assert "BiasGelu" in kernels(outside)
    # Values that stay in rows have other names.
    both = [
        [dataclasses.replace(layer, input="", outputs=()) for layer in inspect_model(as_ir(m))]
        for m in (inside, outside)
    ]
    assert both[0] == both[1]
    shared = [node for node in inside.graph.node if node.op_type == "Gemm" and ".attn.qkv" in node.name]
    assert [node.name[-1] for node in shared] == ["0", "1", "2"] * 2
    assert len({node.input[0] for node in shared}) == 2
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(inside, x, LEVELS[0]), run(outside, x, LEVELS[0]), rtol=0, atol=0.05)


@pytest.mark.parametrize("gelu", ["op", "erf"])
def test_gelu_reads_the_result_of_the_integer_kernel_without_a_bias(gelu: str) -> None:
    model = vit(gelu=gelu)
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)])
    (inside, _), (outside, _) = converted(model, plan), converted(model, plan, plain=True)
    fc1 = [node for node in inside.graph.node if node.name.endswith("mlp.fc1")]
    assert fc1
    assert {node.op_type for node in fc1} == {"Gemm"}
    assert "BiasGelu" not in kernels(inside)
    assert kernels(inside).count("Gelu") == kernels(outside).count("BiasGelu") == len(fc1)
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(inside, x, LEVELS[0]), run(outside, x, LEVELS[0]), rtol=0, atol=0.05)


def test_layer_scale_does_not_hide_the_bias() -> None:
    b = Builder(0)
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 16, 8), name="mm"), b.random("fc.bias", 8))
    b.rename(b.op("Mul", y, b.random("gamma", 8)), "y")
    model = b.model({"x": ["n", 3, 16]}, {"y": ["n", 3, 8]})
    inside, count = converted(model, plan_for(["fc"]))
    assert count == 1
    assert "QGemm" in kernels(inside)


def left_alone(case: str) -> tuple[onnx.ModelProto, BitPlan]:
    model, plan = random_layer(), plan_for(["fc"], weight_bits=8 if case == "large" else 4)
    if case == "large":
        model = random_layer(bias_size=1e9)
    elif case == "no bias":
        model = one_matmul(np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32))
    elif case == "narrow input":
        plan = plan_for(["fc"], weight_bits=4, activation_bits=7)
    elif case == "float input":
        plan = BitPlan(layers={"fc": LayerPlan(weight_bits=4, activation_bits=32)})
    elif case in ("one row", "open sizes"):
        b = Builder(0)
        b.rename(b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 16, 8)), b.random("fc.bias", 8)), "y")
        rows = 1 if case == "one row" else "tokens"
        model = b.model({"x": ["n", rows, 16]}, {"y": ["n", rows, 8]})
    return model, plan


@pytest.mark.parametrize("case", ["large", "no bias", "narrow input", "float input", "one row", "open sizes"])
def test_what_wins_nothing_or_does_not_fit_is_left_alone(case: str) -> None:
    model, plan = left_alone(case)
    proto, count = converted(model, plan)
    assert count == 0
    assert proto.SerializeToString() == converted(model, plan, plain=True)[0].SerializeToString()


def test_other_targets_keep_the_add() -> None:
    for name, target in TARGETS.items():
        count = convert_model(measured(random_layer()), plan_on(target, ["fc"], 4), target=target).passes["BiasInGemm"]
        assert count == (name == "onnxruntime-x86-vnni"), name


def test_two_layers_with_equal_biases_share_constants_and_stay_on_the_kernel() -> None:
    rng = np.random.default_rng(0)
    b = Builder(0)
    weight = rng.normal(size=(8, 8)).astype(np.float32)
    x = "x"
    for name in ("a", "b"):
        x = b.op("MatMul", x, b.constant(f"{name}.weight", weight), name=name)
        x = b.op("Add", x, b.constant(f"{name}.bias", np.ones(8)))
    b.rename(x, "y")
    inside, count = converted(b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]}), plan_for(["a", "b"]))
    assert count == 2
    assert kernels(inside).count("QGemm") == 2
    shared = [tensor.name for tensor in inside.graph.initializer if tensor.name.startswith("lampq.zero.")]
    assert sorted(shared) == ["lampq.zero.int32.8", "lampq.zero.int8.8"]
    session = ort.InferenceSession(inside.SerializeToString())
    assert session.run(None, {"x": np.zeros((2, 3, 8), np.float32)})[0].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("rows", "bias"),
    [
        (["n", 3], (1, 1, 8)), (["n", 3], (1,)), (["n", 3], ()), ([2, 3], (8,)), ([2, 3], (1, 1, 1, 8)),
        ([2, 3], (4, 1, 3, 8)), (["n", 1], (3, 8)), (["n", 4, 5], (8,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zeros", [False, True])
def test_shapes_and_values_with_every_kind_of_bias(rows: list[int | str], bias: tuple[int, ...], zeros: bool) -> None:
    b = Builder(0)
    array = np.zeros(bias) if zeros else b.rng.normal(size=bias)
    product = b.op("MatMul", "x", b.random("fc.weight", 16, 8), name="fc")
    b.rename(b.op("Add", product, b.constant("fc.bias", array)), "y")
    fixed = [2 if size == "n" else int(size) for size in rows]
    wanted_shape = np.broadcast_shapes((*fixed, 8), bias)
    model = b.model({"x": [*rows, 16]}, {"y": None})
    plan = plan_for(["fc"], weight_bits=4)
    inside, _ = converted(model, plan)
    outside, _ = converted(model, plan, plain=True)
    x = np.random.default_rng(1).normal(size=(*fixed, 16)).astype(np.float32)
    for level in LEVELS[:1] + LEVELS[-1:]:
        found, wanted = run(inside, x, level), run(outside, x, LEVELS[0])
        assert found.shape == wanted.shape == wanted_shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())


def test_layers_that_share_an_input_are_all_on_the_kernel() -> None:
    b = Builder(0)
    parts = []
    for name in "qkv":
        product = b.op("MatMul", "x", b.random(f"{name}.weight", 16, 8), name=name)
        parts.append(b.op("Add", product, b.random(f"{name}.bias", 8)))
    b.rename(b.op("Concat", *parts, axis=-1), "y")
    model = b.model({"x": ["windows", 3, 16]}, {"y": ["windows", 3, 24]})
    inside, count = converted(model, plan_for(list("qkv"), weight_bits=4))
    outside, _ = converted(model, plan_for(list("qkv"), weight_bits=4), plain=True)
    assert count == 3
    assert kernels(inside).count("QGemm") == 3
    assert kernels(inside).count("QuantizeLinear") == 1
    x = np.random.default_rng(1).normal(size=(5, 3, 16)).astype(np.float32)
    np.testing.assert_allclose(run(inside, x, LEVELS[-1]), run(outside, x, LEVELS[0]), rtol=0, atol=1e-3)


def test_more_tokens_than_channels_without_a_bias_load_in_openvino() -> None:
    """A random model has biases of zeros, and some models have no bias of the keys."""
    openvino = pytest.importorskip("openvino")
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", 16, 32), name="mm")
    y = b.op("Add", y, b.constant("fc.bias", np.zeros(32)))
    b.rename(b.op("Reshape", y, b.ints(-1, 65, 2, 16)), "y")
    model = b.model({"x": ["n", 65, 16]}, {"y": ["n", 65, 2, 16]})
    inside, count = converted(model, plan_for(["fc"], weight_bits=7, low=-3, high=3))
    assert count == 1
    core, x = openvino.Core(), np.random.default_rng(1).uniform(-3, 3, (2, 65, 16)).astype(np.float32)
    compiled = core.compile_model(
        core.read_model(inside.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    wanted = reference(inside, x)
    np.testing.assert_allclose(compiled(x)[0], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    # The bias is one step in one channel.
    plain, _ = converted(model, plan_for(["fc"], weight_bits=7, low=-3, high=3), plain=True)
    assert np.abs(wanted - reference(plain, x)).max() < 1e-3
