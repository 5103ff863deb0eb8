from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.converter import Conversion, convert_model, inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.targets import TARGETS
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
    run,
    session,
    vit,
)

AVX2 = TARGETS["onnxruntime-x86-avx2"]


def convert(
    model: onnx.ModelProto, plan: BitPlan, packing: str = "exact", target: str = "onnxruntime-x86-avx2"
) -> tuple[onnx.ModelProto, Conversion]:
    conversion = convert_model(as_ir(model), plan, packing=packing, target=TARGETS[target])
    return as_proto(conversion.model), conversion


def layer_by_hand(x: np.ndarray, conversion: Conversion, name: str) -> np.ndarray:
    """Product of the rounded input and the rounded weight, in float64, bias excluded."""
    numbers = conversion.parameters[name]
    assert numbers.activation is not None
    scale, top = float(numbers.activation.scale), 2**numbers.activation.bits - 1
    zero = numbers.activation.zero_point
    level = np.clip(np.rint(x.astype(np.float32) / np.float32(scale)) + zero, 0, top) - zero
    return (level * scale) @ numbers.weight.dequantize().astype(np.float64).T


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


# Gemm


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (-1.5, 0.25)])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), (), (4, 5), (4, 1), "computed"])
def test_gemm(trans_b: int, alpha: float, beta: float, bias: tuple[int, ...] | str | None) -> None:
    b = Builder(3)
    weight = b.random("fc.weight", *((5, 6) if trans_b else (6, 5)))
    inputs = ["x", weight]
    if bias == "computed":
        inputs.append(b.op("Slice", b.op("Relu", "x"), b.ints(0), b.ints(5), b.ints(1)))
    elif bias is not None:
        inputs.append(b.constant("offset", b.rng.normal(size=bias)))
    b.rename(b.op("Gemm", *inputs, name="gemm", transB=trans_b, alpha=alpha, beta=beta), "y")
    model = b.model({"x": [4, 6]}, {"y": [4, 5]})
    x = np.random.default_rng(0).uniform(-3, 3, (4, 6)).astype(np.float32)
    quantized, conversion = convert(model, plan_for(["fc"]))
    wanted = alpha * layer_by_hand(x, conversion, "fc")
    if bias == "computed":
        wanted = wanted + beta * np.maximum(x, 0)[:, :5]
    elif bias is not None:
        wanted = wanted + beta * b.constants["offset"]
    for level in LEVELS:
        close(run(quantized, x, level), wanted)
    assert np.abs(run(model, x) - wanted).max() < 0.1
    assert conversion.passes["GemmToMatMul"] == 1
    assert count(quantized, "Gemm") == 0


def test_gemm_runs_on_an_integer_kernel() -> None:
    b = Builder(0)
    b.rename(b.op("Gemm", "x", b.random("fc.weight", 8, 16), b.random("fc.bias", 8), transB=1), "y")
    model = b.model({"x": ["n", 16]}, {"y": ["n", 8]})
    quantized, _ = convert(model, plan_for(["fc"], weight_bits=3))
    assert "DynamicQuantizeMatMul" in kernels(quantized) or "MatMulIntegerToFloat" in kernels(quantized)


# patch embedding


def conv_by_hand(images: np.ndarray, conversion: Conversion, kernel: tuple[int, int], bias: np.ndarray) -> np.ndarray:
    """[n, d, rows, columns], patch by patch."""
    kh, kw = kernel
    rows, columns = images.shape[2] // kh, images.shape[3] // kw
    out = np.zeros((len(images), len(bias), rows, columns))
    for row in range(rows):
        for column in range(columns):
            patch = images[:, :, row * kh : (row + 1) * kh, column * kw : (column + 1) * kw].reshape(len(images), -1)
            out[:, :, row, column] = layer_by_hand(patch, conversion, "pe") + bias
    return out


@pytest.mark.parametrize("activation_bits", [8, 4])
@pytest.mark.parametrize(
    "follow", ["tokens", "tokens-minus-one-batch", "map", "map-and-relu", "reverse", "two-readers", "no-bias"]
)
def test_patch_embedding(follow: str, activation_bits: int) -> None:
    b = Builder(1)
    dim, kernel = 10, (2, 3)
    arguments = ["images", b.random("pe.weight", dim, 3, *kernel)]
    if follow != "no-bias":
        arguments.append(b.random("pe.bias", dim))
    y = b.op("Conv", *arguments, strides=list(kernel), kernel_shape=list(kernel), name="conv")
    shape: list[int | str] = ["n", dim, 3, 2]
    if follow in ("tokens", "no-bias", "tokens-minus-one-batch"):
        wanted_shape = b.ints(-1, dim, 6) if follow == "tokens-minus-one-batch" else b.ints(0, dim, -1)
        y = b.op("Transpose", b.op("Reshape", y, wanted_shape), perm=[0, 2, 1])
        shape = ["n", 6, dim]
    elif follow == "map-and-relu":
        y = b.op("Relu", y)
    elif follow == "reverse":
        y = b.op("Transpose", b.op("Reshape", y, b.ints(0, dim, -1)))
        shape = [6, dim, "n"]
    elif follow == "two-readers":
        flat = b.op("Reshape", y, b.ints(0, dim, -1))
        y = b.op("Add", b.op("Transpose", flat, perm=[0, 2, 1]), b.op("ReduceMean", y, keepdims=0))
        shape = ["n", 6, dim]
    b.rename(y, "y")
    model = b.model({"images": ["n", 3, 6, 6]}, {"y": shape})
    images = np.random.default_rng(0).uniform(-3, 3, (4, 3, 6, 6)).astype(np.float32)
    quantized, conversion = convert(model, plan_for(["pe"], activation_bits=activation_bits))
    maps = conv_by_hand(images, conversion, kernel, b.constants.get("pe.bias", np.zeros(dim)))
    tokens = maps.reshape(4, dim, 6).transpose(0, 2, 1)
    if follow in ("map", "map-and-relu"):
        wanted = np.maximum(maps, 0) if follow == "map-and-relu" else maps
    elif follow == "reverse":
        wanted = maps.reshape(4, dim, 6).transpose()
    elif follow == "two-readers":
        wanted = tokens + maps.mean()
    else:
        wanted = tokens
    for level in LEVELS:
        close(run(quantized, images, level), wanted)
    assert np.linalg.norm(run(model, images) - wanted) < (0.02 if activation_bits == 8 else 0.3) * np.linalg.norm(
        wanted
    )
    assert conversion.passes["PatchEmbedToMatMul"] == 1
    assert count(quantized, "Conv") == 0
    transposes = {"tokens": 1, "tokens-minus-one-batch": 1, "no-bias": 1, "map": 2, "map-and-relu": 2}
    assert count(quantized, "Transpose") == transposes.get(follow, 3)
    assert quantized.graph.output[0].name == "y"


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("batch", [None, 1])
def test_patches_inside_a_graph_have_few_dimensions(size: int, batch: int | None) -> None:
    """QNN moves tensors of at most five dimensions."""
    b = Builder(1)
    stem = b.op("Conv", "images", b.random("stem.weight", 5, 3, 3, 3), pads=[1, 1, 1, 1])
    weight = b.random("proj.weight", 8, 5, size, size)
    b.rename(b.op("Conv", b.op("Relu", stem), weight, name="p", strides=[size] * 2), "y")
    model = b.model({"images": ["n", 3, 4, 6]}, {"y": ["n", 8, 4 // size, 6 // size]})
    plan = plan_for(["proj"], low=0.0, high=4.0)
    done = convert_model(as_ir(model), plan, target=TARGETS["onnxruntime-arm64"], batch=batch)
    file = as_proto(done.model)
    assert done.passes["PatchEmbedToMatMul"] == 1
    inferred = onnx.shape_inference.infer_shapes(file)
    ranks = [len(value.type.tensor_type.shape.dim) for value in inferred.graph.value_info]
    assert max(ranks) == (6 if size == 2 and batch is None else 5 if size == 2 else 4)
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)
    wanted = run(model, x)
    assert np.linalg.norm(run(file, x) - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"strides": [1, 1]}, (6, 6)),
        ({"strides": [2, 2], "pads": [1, 1, 1, 1]}, (6, 6)),
        ({"strides": [2, 2], "dilations": [2, 2]}, (6, 6)),
        ({"strides": [2, 2]}, (7, 6)),
        ({"strides": [2, 2]}, ("h", "w")),
        ({}, (6, 6)),
    ],
)
def test_other_convolutions_are_refused(attributes: dict[str, list[int]], size: tuple[int | str, int | str]) -> None:
    b = Builder(1)
    conv = b.op("Conv", "images", b.random("stem.weight", 4, 3, 2, 2), name="c", kernel_shape=[2, 2], **attributes)
    b.rename(conv, "y")
    model = b.model({"images": ["n", 3, *size]}, {"y": None})
    with pytest.raises(LampqError, match=r"layer stem .*is not a patch embedding") as raised:
        convert(model, plan_for(["stem"]))
    assert "32" in raised.value.hint


# activations


def two_readers() -> onnx.ModelProto:
    """Two layers that read the same tensor."""
    b = Builder(2)
    x = b.op("Relu", "x")
    left, right = b.op("MatMul", x, b.random("a.weight", 6, 4)), b.op("MatMul", x, b.random("b.weight", 6, 4))
    b.rename(b.op("Mul", left, right), "y")
    return b.model({"x": ["n", 3, 6]}, {"y": ["n", 3, 4]})


def test_layers_with_the_same_input_share_a_pair() -> None:
    model = two_readers()
    quantized, conversion = convert(model, plan_for(["a", "b"], low=0, high=3))
    assert count(quantized, "QuantizeLinear") == 1
    assert conversion.passes["QuantizeActivations"] == 1
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 6)).astype(np.float32)
    positive = np.maximum(x, 0)
    wanted = layer_by_hand(positive, conversion, "a") * layer_by_hand(positive, conversion, "b")
    for level in LEVELS:
        close(run(quantized, x, level), wanted)


def test_other_numbers_take_another_pair() -> None:
    plan = plan_for(["a", "b"], low=0, high=3)
    other = plan.layers["b"].model_copy(update={"activation_bits": 4})
    plan = plan.model_copy(update={"layers": {"a": plan.layers["a"], "b": other}})
    quantized, conversion = convert(two_readers(), plan)
    assert count(quantized, "QuantizeLinear") == 2
    assert count(quantized, "Clip") == 1
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 6)).astype(np.float32)
    positive = np.maximum(x, 0)
    wanted = layer_by_hand(positive, conversion, "a") * layer_by_hand(positive, conversion, "b")
    for level in LEVELS:
        close(run(quantized, x, level), wanted)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 1.0), (-3.0, 0.0), (-0.4, 7.7)])
def test_narrow_activations_are_exactly_those_of_the_narrow_type(low: float, high: float, bits: int) -> None:
    weight = np.eye(6, dtype=np.float32)
    quantized, _ = convert(one_matmul(weight), plan_for(["fc"], activation_bits=bits, low=low, high=high))
    assert count(quantized, "Clip") == (bits < 8)
    zero = next(tensor for tensor in quantized.graph.initializer if tensor.name == "fc.input.zero_point")
    assert zero.data_type == onnx.TensorProto.UINT8
    product = next(node for node in quantized.graph.node if node.op_type == "MatMul")
    probe = onnx.ModelProto.FromString(quantized.SerializeToString())
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(product.input[0]))
    rng = np.random.default_rng(bits)
    x = rng.uniform(1.5 * low - 0.1, 1.5 * high + 0.1, (50, 3, 6)).astype(np.float32)
    quantizer = ActivationQuantizer.from_range(low, high, bits)
    ties = (np.arange(-9, 9) * 0.5 * quantizer.scale).astype(np.float32)
    x[:3] = np.resize(ties, (3, 3, 6))
    found = session(probe).run(None, {"x": x})[1]
    scale = np.float32(quantizer.scale)
    level = np.clip(np.rint(x / scale), -quantizer.zero_point, 2**bits - 1 - quantizer.zero_point)
    np.testing.assert_array_equal(found, level * scale)
    assert len(np.unique(found)) <= 2**bits


def moved(other_reader: bool) -> onnx.ModelProto:
    b = Builder(4)
    x = b.op("Relu", "x")
    x = b.op("Transpose", b.op("Reshape", x, b.ints(0, 3, 2, 2)), perm=[0, 3, 1, 2])
    x = b.op("Reshape", x, b.ints(0, 2, 6))
    y = b.op("MatMul", x, b.random("fc.weight", 6, 5))
    b.rename(y, "y")
    outputs = {"y": ["n", 2, 5]}
    if other_reader:
        b.rename(b.op("Sigmoid", x), "z")
        outputs["z"] = ["n", 2, 6]
    return b.model({"x": ["n", 3, 4]}, outputs)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("other_reader", [False, True])
def test_moves_stay_before_quantizing(other_reader: bool, bits: int) -> None:
    """Behind QuantizeLinear they move bytes, which QNN does not load and MNN computes wrongly."""
    model = moved(other_reader)
    quantized, conversion = convert(model, plan_for(["fc"], activation_bits=bits, low=0, high=2.5))
    reader = {name: node.op_type for node in quantized.graph.node for name in node.input}
    quantize = next(node for node in quantized.graph.node if node.op_type == "QuantizeLinear")
    assert reader[quantize.output[0]] == "DequantizeLinear"
    x = np.random.default_rng(1).uniform(-3, 3, (5, 3, 4)).astype(np.float32)
    rows = np.maximum(x, 0).reshape(5, 3, 2, 2).transpose(0, 3, 1, 2).reshape(5, 2, 6)
    for level in LEVELS:
        close(run(quantized, x, level), layer_by_hand(rows, conversion, "fc"))
    assert inspect_model(conversion.model)[0].input == model.graph.node[3].output[0]


def test_a_reshape_that_is_an_output_stays() -> None:
    model = moved(False)
    inner = next(node for node in model.graph.node if node.op_type == "MatMul").input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, ["n", 2, 6]))
    quantized, _ = convert(model, plan_for(["fc"], low=0, high=3))
    x = np.random.default_rng(1).uniform(-3, 3, (5, 3, 4)).astype(np.float32)
    for level in LEVELS:
        rows = session(quantized, level).run(None, {"x": x})[1]
        np.testing.assert_array_equal(rows, session(model).run(None, {"x": x})[1])


# weights


@pytest.mark.parametrize("packing", ["exact", "native", "container"])
@pytest.mark.parametrize("gemm", [False, True])
def test_a_weight_of_two_nodes(packing: str, gemm: bool) -> None:
    b = Builder(5)
    weight = b.random("fc.weight", 8, 8)
    if gemm:
        middle = b.op("Relu", b.op("Gemm", "x", weight, name="one", transB=1))
        b.rename(b.op("Gemm", middle, weight, name="two", transB=1), "y")
        model = b.model({"x": ["n", 8]}, {"y": ["n", 8]})
    else:
        middle = b.op("Relu", b.op("MatMul", "x", weight, name="one"))
        b.rename(b.op("MatMul", middle, weight, name="two"), "y")
        model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    x = np.random.default_rng(1).uniform(-3, 3, (4, 8) if gemm else (4, 3, 8)).astype(np.float32)
    quantized, conversion = convert(model, plan_for(["one", "two"], weight_bits=3), packing)
    wanted = layer_by_hand(np.maximum(layer_by_hand(x, conversion, "one"), 0), conversion, "two")
    for level in LEVELS:
        close(run(quantized, x, level), wanted)
    # Stored once, dequantized twice.
    names = [name for name in constants(quantized) if ".weight." in name]
    assert names
    assert not [name for name in names if name.startswith("two")]
    layers = inspect_model(conversion.model)
    assert [(layer.name, layer.weight_bits, layer.parameters) for layer in layers] == [("one", 3, 64), ("two", 3, 64)]
    assert layers[0].bytes == layers[1].bytes == conversion.stored["two"].bytes

    # One of them quantized: the other keeps its float weight.
    half, conversion = convert(model, plan_for(["two"], weight_bits=3), packing)
    first = np.maximum(x.astype(np.float64) @ (b.constants["fc.weight"].T if gemm else b.constants["fc.weight"]), 0)
    found, wanted = run(half, x), layer_by_hand(first, conversion, "two")
    assert np.linalg.norm(found - wanted) < 1e-2 * np.linalg.norm(wanted)  # a value may lie on a rounding boundary
    assert "fc.weight" in constants(half)


def test_equal_weights_with_other_widths_are_two() -> None:
    b = Builder(5)
    weight = b.random("fc.weight", 8, 8)
    b.rename(b.op("MatMul", b.op("Relu", b.op("MatMul", "x", weight, name="one")), weight, name="two"), "y")
    plan = plan_for(["one", "two"], weight_bits=3)
    wider = plan.layers["one"].model_copy(update={"weight_bits": 5, "activation_bits": 6})
    plan = plan.model_copy(update={"layers": {"one": plan.layers["one"], "two": wider}})
    _, conversion = convert(b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]}), plan)
    found = [(layer.weight_bits, layer.activation_bits, layer.bytes) for layer in inspect_model(conversion.model)]
    assert found == [(3, 8, 24), (5, 6, 40)]


# opset


@pytest.mark.parametrize("packing", ["exact", "native", "container"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_the_opset_is_raised_as_far_as_needed(opset: int, bits: int, packing: str) -> None:
    model = vit(gelu="erf", norm="decomposed", linear="gemm", opset=opset, blocks=1)
    names = ["blocks.0.attn.qkv", "blocks.0.mlp.fc2", "patch_embed.proj", "head"]
    model.metadata_props.add(key="keep", value="this")
    quantized, conversion = convert(model, plan_for(names, weight_bits=bits), packing)
    needed = {("exact", False): 14, ("native", False): 25 if bits <= 2 else 21 if bits <= 4 else 13}
    least = needed.get((packing, bits == 8), 13)
    assert quantized.opset_import[0].version == max(opset, least)
    assert conversion.passes["RaiseOpset"] == (least > opset)
    # Raising may lose nothing: not the layers, not their names and types, not the metadata.
    layers = {layer.name: layer for layer in inspect_model(conversion.model)}
    assert set(layers) == set(names) == set(conversion.stored)
    assert [layers[name].type for name in names] == ["qkv", "fc2", "patch_embed", "head"]
    assert all(layer.weight_bits == bits for layer in layers.values())
    assert {p.key: p.value for p in quantized.metadata_props}["keep"] == "this"
    assert [o.name for o in quantized.graph.output] == ["logits"]
    images = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    twin, _ = convert(
        vit(gelu="erf", norm="decomposed", linear="gemm", opset=20, blocks=1),
        plan_for(names, weight_bits=bits),
        "container",
    )
    close(run(quantized, images), run(twin, images).astype(np.float64))


def test_passes_say_what_they_did() -> None:
    model = vit(linear="gemm", blocks=2)
    layers = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    _, conversion = convert(model, plan_for(["patch_embed.proj", *layers, "head"]))
    assert conversion.passes == {
        "RaiseOpset": 0,
        "FoldShapes": 0,
        "RemoveMoves": 0,
        "SplitUnbind": 2,
        "SelectEarly": 0,
        "ReplaceBias": 0,
        "PatchEmbedToMatMul": 1,
        "GemmToMatMul": 9,
        "QuantizeActivations": 10,
        "QuantizeWeights": 10,
        "ProductPerPart": 2,
        "BiasInGemm": 0,
        "OneAttention": 0,
        "StayInRows": 0,
        "TokensFirst": 0,
        "RemovedInitializers": conversion.passes["RemovedInitializers"],
    }
    assert conversion.passes["RemovedInitializers"] >= 10
    assert isinstance(conversion.model, ir.Model)
