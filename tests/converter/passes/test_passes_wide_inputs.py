"""Layers whose inputs 8 bits cannot hold: 16 bits, or float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import Conversion, convert_model, inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import PACKINGS, TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    count,
    kernels,
    one_matmul,
    plan_for,
    reference,
    run,
    vit,
    with_outputs,
)

AVX2 = TARGETS["onnxruntime-x86-avx2"]
NAMES = [
    "patch_embed.proj",
    *(f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "head",
]


def convert(
    model: onnx.ModelProto, plan: BitPlan, packing: str = "exact", target: str = "onnxruntime-x86-avx2"
) -> tuple[onnx.ModelProto, Conversion]:
    conversion = convert_model(as_ir(model), plan, packing=packing, target=TARGETS[target])
    return as_proto(conversion.model), conversion


def rounded(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """16-bit asymmetric quantization, written out."""
    scale = np.float32((high - low) / 65535)
    zero = round(-low / float(scale))
    return (np.clip(np.rint(x / scale) + zero, 0, 65535) - zero) * scale.astype(np.float64)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("activation_bits", [16, 32])
@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_in_the_file_and_qdq_arithmetic_in_float(bits: int, activation_bits: int, packing: str) -> None:
    rng = np.random.default_rng(bits)
    matrix, bias = rng.normal(size=(24, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    plan = plan_for(["fc"], weight_bits=bits, activation_bits=activation_bits, low=-2.0, high=3.0)
    model, conversion = convert(one_matmul(matrix, bias), plan, packing)

    # bytes
    native = 2 if bits <= 2 else 4 if bits <= 4 else 8
    width = {"exact": bits, "native": native, "container": 8}[packing]
    assert conversion.stored["fc"].bytes == matrix.size * width // 8
    packed = [t for t in model.graph.initializer if t.name.startswith(("fc.weight.quantized", "fc.weight.bits"))]
    assert sum(len(tensor.raw_data) for tensor in packed) == matrix.size * width // 8
    assert not [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    layer = inspect_model(conversion.model)[0]
    assert (layer.weight_bits, layer.activation_bits) == (bits, activation_bits)
    assert (layer.parameters, layer.bytes) == (matrix.size, matrix.size * width // 8)
    assert layer.storage == conversion.stored["fc"].storage
    assert (layer.input, layer.outputs) == ("x", ("y",))

    # the weight itself, folded and in onnx's evaluator
    weight = conversion.parameters["fc"].weight.dequantize().T
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    x = rng.normal(0, 2, (2, 3, 24)).astype(np.float32)
    probe = with_outputs(model, product.input[1])
    np.testing.assert_array_equal(run(probe, x, LEVELS[-1]), weight)
    np.testing.assert_array_equal(reference(probe, x), weight)

    # the layer
    values = rounded(x, -2, 3) if activation_bits == 16 else x.astype(np.float64)
    wanted = values @ weight.astype(np.float64) + bias
    close(reference(model, x), wanted)
    for level in LEVELS:
        close(run(model, x, level), wanted)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("activation_bits", [16, 32])
@pytest.mark.parametrize("batch", ["n", 1])
def test_weights_are_folded_to_float(batch: str | int, activation_bits: int, packing: str) -> None:
    """At session creation, not at each run, and onto no kernel that rounds the inputs on its own."""
    b = Builder()
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 64, 32)), b.random("fc.bias", 32))
    b.rename(y, "y")
    float_model = b.model({"x": [batch, 3, 64]}, {"y": [batch, 3, 32]})
    for bits in (2, 3, 8):
        plan = plan_for(["fc"], weight_bits=bits, activation_bits=activation_bits)
        found = kernels(convert(float_model, plan, packing)[0])
        pair = ["QuantizeLinear", "DequantizeLinear"] if activation_bits == 16 else []
        assert [kind for kind in found if kind not in ("Reshape", "Add")] in ([*pair, "MatMul"], [*pair, "Gemm"])


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", [3, 8])
def test_a_transformer_with_float_inputs(bits: int, packing: str, linear: str) -> None:
    float_model = vit(linear=linear)
    bare = LayerPlan(weight_bits=bits, activation_bits=32)  # no range is asked for
    model, conversion = convert(float_model, BitPlan(layers=dict.fromkeys(NAMES, bare)), packing)
    assert conversion.passes["QuantizeActivations"] == 0
    assert conversion.passes["RaiseOpset"] == (packing == "native" and bits < 8)
    # The float model with the rounded weights in it
    twin = onnx.ModelProto.FromString(float_model.SerializeToString())
    transposed = linear == "gemm"
    for tensor in twin.graph.initializer:
        name = tensor.name.removesuffix(".weight")
        if name in conversion.parameters:
            weight = conversion.parameters[name].weight.dequantize()
            weight = weight if transposed or name == "patch_embed.proj" else weight.T
            tensor.CopyFrom(numpy_helper.from_array(weight.reshape(list(tensor.dims)), tensor.name))
    images = np.random.default_rng(9).normal(size=(5, 3, 4, 4)).astype(np.float32)
    wanted = run(twin, images)
    assert np.linalg.norm(reference(model, images) - wanted) < 1e-5 * np.linalg.norm(wanted)
    for level in LEVELS:
        assert np.linalg.norm(run(model, images, level) - wanted) < 1e-5 * np.linalg.norm(wanted)
    layers = inspect_model(conversion.model)
    assert [layer.name for layer in layers] == NAMES
    assert {(layer.weight_bits, layer.activation_bits) for layer in layers} == {(bits, 32)}


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_inputs_of_all_kinds_side_by_side(packing: str, linear: str) -> None:
    float_model = vit(linear=linear)
    widths = dict(zip(NAMES, [16, 8, 16, 32, 16, 4, 32, 8, 32, 16], strict=True))
    interval = ActivationRange(low=-6, high=6)
    layers = {n: LayerPlan(weight_bits=8, activation_bits=w, activation_range=interval) for n, w in widths.items()}
    model, conversion = convert(float_model, BitPlan(layers=layers), packing)
    found = {layer.name: layer for layer in inspect_model(conversion.model)}
    assert {name: layer.activation_bits for name, layer in found.items()} == widths
    # Only integer kernels need uint8 for 8-bit weights on this target.
    assert {n for n, layer in found.items() if layer.storage == "uint8"} == {n for n, w in widths.items() if w <= 8}
    sizes = {graph_layer.name: graph_layer.matrix().size for graph_layer in find_layers(as_ir(float_model).graph)}
    assert all(layer.parameters == layer.bytes == sizes[name] for name, layer in found.items())
    assert model.opset_import[0].version == 21
    kinds = {t.data_type for t in model.graph.initializer if t.name.endswith("input.zero_point")}
    assert kinds == {TensorProto.UINT8, TensorProto.UINT16}
    images = np.random.default_rng(9).normal(size=(5, 3, 4, 4)).astype(np.float32)
    plain = run(model, images)
    assert np.linalg.norm(reference(model, images) - plain) < 1e-4 * np.linalg.norm(plain)
    for level in LEVELS:
        assert np.linalg.norm(run(model, images, level) - plain) < 5e-2 * np.linalg.norm(plain)  # flips grow


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
def test_only_sixteen_bits_raise_the_opset(opset: int) -> None:
    model = vit(gelu="erf", norm="decomposed", linear="gemm", opset=opset, blocks=1)
    names = ["blocks.0.attn.qkv", "blocks.0.mlp.fc2", "patch_embed.proj", "head"]
    for bits, needed in ((16, 21), (32, 14)):
        quantized, conversion = convert(model, plan_for(names, weight_bits=3, activation_bits=bits))
        assert quantized.opset_import[0].version == max(opset, needed)
        assert {layer.name for layer in inspect_model(conversion.model)} == set(names)


def test_only_quantized_inputs_need_a_range() -> None:
    model = one_matmul(np.eye(8, dtype=np.float32))
    convert(model, BitPlan(layers={"fc": LayerPlan(weight_bits=4, activation_bits=32)}))
    with pytest.raises(LampqError, match="no activation_range for layer fc"):
        convert(model, BitPlan(layers={"fc": LayerPlan(weight_bits=4, activation_bits=16)}))


@pytest.mark.parametrize(("bits", "copies"), [(4, 1), (7, 1), (8, 2)])
def test_one_weight_behind_two_kinds_of_inputs(bits: int, copies: int) -> None:
    """Stored once, except where the integer kernel of the target needs uint8."""
    b = Builder(5)
    weight = b.random("fc.weight", 8, 8)
    b.rename(b.op("MatMul", b.op("Relu", b.op("MatMul", "x", weight, name="one")), weight, name="two"), "y")
    plan = plan_for(["one", "two"], weight_bits=bits)
    wide = plan.layers["one"].model_copy(update={"activation_bits": 32})
    plan = plan.model_copy(update={"layers": {"one": plan.layers["one"], "two": wide}})
    model, conversion = convert(b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]}), plan)
    data = [a for n, a in constants(model).items() if ".weight.bits" in n or ".weight.quantized" in n]
    assert sum(array.nbytes for array in data) == copies * 64 * bits // 8
    assert [(layer.weight_bits, layer.activation_bits) for layer in inspect_model(conversion.model)] == [
        (bits, 8),
        (bits, 32),
    ]
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 8)).astype(np.float32)
    for level in LEVELS:
        np.testing.assert_allclose(run(model, x, level), reference(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation_bits", [16, 32])
def test_a_patch_embedding(activation_bits: int) -> None:
    b = Builder(1)
    weight, bias = b.random("pe.weight", 10, 3, 2, 3), b.random("pe.bias", 10)
    conv = b.op("Conv", "images", weight, bias, strides=[2, 3], kernel_shape=[2, 3])
    b.rename(b.op("Transpose", b.op("Reshape", conv, b.ints(0, 10, -1)), perm=[0, 2, 1]), "y")
    model = b.model({"images": ["n", 3, 6, 6]}, {"y": ["n", 6, 10]})
    images = np.random.default_rng(0).uniform(-3, 3, (4, 3, 6, 6)).astype(np.float32)
    quantized, conversion = convert(model, plan_for(["pe"], weight_bits=4, activation_bits=activation_bits))
    patches = images.reshape(4, 3, 3, 2, 2, 3).transpose(0, 2, 4, 1, 3, 5).reshape(4, 6, 18)
    values = rounded(patches, -4, 4) if activation_bits == 16 else patches.astype(np.float64)
    wanted = values @ conversion.parameters["pe"].weight.dequantize().T.astype(np.float64) + b.constants["pe.bias"]
    for level in LEVELS:
        close(run(quantized, images, level), wanted)
    assert count(quantized, "Conv") == (activation_bits == 32)  # a float kernel is best at it as it is


def convolution(bits: int, packing: str, target: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A pointwise one with float inputs, images, and what it makes of them."""
    b = Builder(1)
    x = b.op("Relu", "images")
    conv = b.op("Conv", x, b.random("mix.weight", 16, 8, 1, 1), b.random("mix.bias", 16), kernel_shape=[1, 1])
    b.rename(b.op("Relu", conv), "y")
    model = b.model({"images": ["n", 8, 5, 3]}, {"y": ["n", 16, 5, 3]})
    images = np.random.default_rng(0).uniform(-3, 3, (4, 8, 5, 3)).astype(np.float32)
    plan = BitPlan(layers={"mix": LayerPlan(weight_bits=bits, activation_bits=32)})
    quantized, conversion = convert(model, plan, packing, target)
    weight = conversion.parameters["mix"].weight.dequantize().astype(np.float64)
    values = np.einsum("oi,nihw->nohw", weight, np.maximum(images, 0).astype(np.float64))
    return quantized, images, np.maximum(values + b.constants["mix.bias"][:, None, None], 0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_openvino_reads_a_convolution_with_float_inputs(bits: int, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    quantized, images, wanted = convolution(bits, "exact", "openvino-x86-vnni")
    onnx.save(quantized, tmp_path / "model.onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", options)
    close(compiled([images])[compiled.output(0)], wanted)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", [1, 2, 4, 5, 6, 7, 8])
def test_a_convolution_with_float_inputs(bits: int, packing: str) -> None:
    quantized, images, wanted = convolution(bits, packing, "onnxruntime-x86-avx2")
    for level in LEVELS:
        close(run(quantized, images, level), wanted)
    if bits != 2 and (bits != 4 or packing != "native"):  # onnx's reference knows these types from other opsets
        close(reference(quantized, images), wanted)
    # The unpacking is folded: what is left is a float convolution.
    unpacking = {"Cast", "Mul", "Gather", "Transpose", "Reshape", "BitShift", "MatMulInteger", "Sub"}
    assert not set(kernels(quantized)) & unpacking
    (layer,) = inspect_model(as_ir(quantized))
    assert (layer.weight_bits, layer.activation_bits, layer.parameters) == (bits, 32, 128)
    conv = next(node for node in quantized.graph.node if node.op_type == "Conv")
    assert (layer.input, layer.outputs) == (conv.input[0], (conv.output[0],))
