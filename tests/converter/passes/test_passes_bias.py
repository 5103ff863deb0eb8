"""Rounded weights that bring a bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from lampq_onnx.converter import Conversion, convert_model, inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.quantization import QuantizedWeight, fit_weight_grid
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    count,
    one_matmul,
    plan_for,
    run,
    session,
)

OUTPUTS = 5
NEW = np.linspace(-2, 3, OUTPUTS).astype(np.float32)


def with_bias(model: onnx.ModelProto, bias: np.ndarray, *names: str) -> dict[str, QuantizedWeight]:
    """Weights rounded to nearest, with another bias for some of them."""
    layers = {layer.name: layer.matrix() for layer in find_layers(as_ir(model).graph)}
    rounded = {name: fit_weight_grid(layers[name], 4).quantize(layers[name]) for name in names}
    return {name: replace(weight, bias=bias) for name, weight in rounded.items()}


def convert(
    model: onnx.ModelProto, weights: dict[str, QuantizedWeight], activation_bits: int = 32
) -> tuple[onnx.ModelProto, Conversion]:
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    plan = plan_for(names, weight_bits=4, activation_bits=activation_bits)
    conversion = convert_model(as_ir(model), plan, target=TARGETS["onnxruntime-x86-avx2"], weights=weights)
    return as_proto(conversion.model), conversion


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation_bits", [8, 16, 32])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_matmul(has_bias: bool, activation_bits: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(8, OUTPUTS)).astype(np.float32)
    model = one_matmul(matrix, rng.normal(size=OUTPUTS).astype(np.float32) if has_bias else None)
    weights = with_bias(model, NEW, "fc")
    quantized, conversion = convert(model, weights, activation_bits)
    assert conversion.passes["ReplaceBias"] == 1
    assert conversion.nearest == ()
    assert count(quantized, "Add") == 1
    x = rng.uniform(-3, 3, (2, 3, 8)).astype(np.float32)
    activation = conversion.parameters["fc"].activation
    values = x if activation is None else activation.fake(x)
    for level in LEVELS:
        close(run(quantized, x, level), values @ weights["fc"].dequantize().T + NEW)
    assert "fc.bias" not in constants(quantized)
    layer = inspect_model(conversion.model)[0]
    assert (layer.input, layer.outputs) == ("x", ("y",))
    assert quantized.graph.output[0].name == "y"


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("bias", [None, (OUTPUTS,), (1, OUTPUTS), (1,), ()])
def test_a_gemm(bias: tuple[int, ...] | None, beta: float) -> None:
    b = Builder(3)
    inputs = ["x", b.random("fc.weight", OUTPUTS, 6)]
    if bias is not None:
        inputs.append(b.constant("offset", b.rng.normal(size=bias)))
    b.rename(b.op("Gemm", *inputs, transB=1, alpha=0.5, beta=beta), "y")
    model = b.model({"x": ["n", 6]}, {"y": ["n", OUTPUTS]})
    weights = with_bias(model, NEW, "fc")
    quantized, _ = convert(model, weights)
    x = b.rng.normal(size=(4, 6)).astype(np.float32)
    for level in LEVELS:
        close(run(quantized, x, level), 0.5 * x @ weights["fc"].dequantize().T + NEW)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_patch_embedding(has_bias: bool) -> None:
    b = Builder(1)
    inputs = ["images", b.random("pe.weight", OUTPUTS, 3, 2, 2)]
    if has_bias:
        inputs.append(b.random("pe.bias", OUTPUTS))
    conv = b.op("Conv", *inputs, strides=[2, 2], kernel_shape=[2, 2])
    b.rename(b.op("Transpose", b.op("Reshape", conv, b.ints(0, OUTPUTS, -1)), perm=[0, 2, 1]), "y")
    model = b.model({"images": ["n", 3, 4, 4]}, {"y": ["n", 4, OUTPUTS]})
    weights = with_bias(model, NEW, "pe")
    quantized, _ = convert(model, weights)
    images = b.rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    patches = images.reshape(2, 3, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(2, 4, 12)
    for level in LEVELS:
        close(run(quantized, images, level), patches @ weights["pe"].dequantize().T + NEW)


def two_layers_with_one_bias() -> onnx.ModelProto:
    b = Builder(2)
    bias = b.random("merged", OUTPUTS)
    left = b.op("Add", b.op("MatMul", "x", b.random("a.weight", 6, OUTPUTS)), bias)
    right = b.op("Add", bias, b.op("MatMul", "x", b.random("b.weight", 6, OUTPUTS)))
    b.rename(left, "y")
    b.rename(right, "z")
    b.rename(b.op("Mul", "y", bias), "w")
    shape = ["n", 3, OUTPUTS]
    return b.model({"x": ["n", 3, 6]}, {"y": shape, "z": shape, "w": shape})


@pytest.mark.parametrize("changed", [["a"], ["b"], ["a", "b"]])
def test_a_shared_bias_stays_for_its_other_readers(changed: list[str]) -> None:
    model = two_layers_with_one_bias()
    old = constants(model)["merged"]
    weights = with_bias(model, NEW, *changed)
    quantized, conversion = convert(model, weights)
    assert conversion.passes["ReplaceBias"] == len(changed)
    np.testing.assert_array_equal(constants(quantized)["merged"], old)
    x = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    for level in LEVELS:
        y, z, w = session(quantized, level).run(None, {"x": x})
        for name, found in (("a", y), ("b", z)):
            product = x @ conversion.parameters[name].weight.dequantize().T
            close(found, product + (NEW if name in changed else old))
        close(w, y * old)


def test_the_width_decides_with_the_weights() -> None:
    """Weights of another width than planned are not used, and neither is their bias."""
    model = one_matmul(np.eye(OUTPUTS, dtype=np.float32), np.ones(OUTPUTS, np.float32))
    weights = with_bias(model, NEW, "fc")
    plan = plan_for(["fc"], weight_bits=5)
    conversion = convert_model(as_ir(model), plan, target=TARGETS["onnxruntime-arm64"], weights=weights)
    assert conversion.passes["ReplaceBias"] == 0
    np.testing.assert_array_equal(constants(as_proto(conversion.model))["fc.bias"], np.ones(OUTPUTS, np.float32))


def test_a_computed_addend_is_no_bias() -> None:
    b = Builder(0)
    b.rename(b.op("Add", "x", b.op("MatMul", "x", b.random("fc.weight", OUTPUTS, OUTPUTS))), "y")
    model = b.model({"x": ["n", 3, OUTPUTS]}, {"y": ["n", 3, OUTPUTS]})
    weights = with_bias(model, NEW, "fc")
    x = b.rng.normal(size=(2, 3, OUTPUTS)).astype(np.float32)
    for level in LEVELS:
        close(run(convert(model, weights)[0], x, level), x + x @ weights["fc"].dequantize().T + NEW)


@pytest.mark.parametrize("kind", ["computed", "rows", "other reader"])
def test_a_bias_that_cannot_be_replaced(kind: str) -> None:
    b = Builder(3)
    if kind == "other reader":
        product = b.op("MatMul", "x", b.random("fc.weight", 6, OUTPUTS))
        b.rename(b.op("Mul", product, b.op("Add", product, b.random("offset", OUTPUTS))), "y")
    else:
        rows = b.random("offset", 4, OUTPUTS)
        addend = rows if kind == "rows" else b.op("Slice", b.op("Relu", "x"), b.ints(0), b.ints(OUTPUTS), b.ints(1))
        b.rename(b.op("Gemm", "x", b.random("fc.weight", OUTPUTS, 6), addend, transB=1), "y")
    model = b.model({"x": [4, 6]}, {"y": [4, OUTPUTS]})
    with pytest.raises(LampqError, match="rounding of layer fc changes its bias") as raised:
        convert(model, with_bias(model, NEW, "fc"))
    assert "weights file" in raised.value.hint


def test_a_bias_of_another_layer() -> None:
    model = one_matmul(np.eye(8, dtype=np.float32))
    with pytest.raises(LampqError, match="rounded weights of layer fc do not belong"):
        convert(model, with_bias(model, NEW, "fc"))
