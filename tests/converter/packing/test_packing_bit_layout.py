"""Shared bytes: every code comes back, by plain arithmetic and by the nodes, and in OpenVINO as well."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.packing.bit_layout import (
    LOANS,
    SHARED_BITS,
    bytes_in_group,
    codes_in_group,
    share_bytes,
    shares_bytes,
)
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    kernels,
    one_matmul,
    plan_for,
    reference,
    run,
)
from tests.processor import EXACT_INT8

SHARED = sorted(SHARED_BITS)
ONNXRUNTIME = ["onnxruntime-x86-avx2", "onnxruntime-x86-vnni", "onnxruntime-arm64"]


def read_bit_by_bit(packed: np.ndarray, bits: int) -> list[int]:
    """The codes, with integers of Python."""
    if bits == 7:
        own = [[int(byte) >> 1 for byte in row] for row in packed]
        totals = [sum(2 ** (at + 1) * int(byte) for at, byte in enumerate(column)) for column in packed.T]
        return [code for row in own for code in row] + [(total % 256) >> 1 for total in totals]
    own = [[int(byte) % 2**bits for byte in row] for row in packed]
    extra = [
        [
            sum((int(packed[loan.byte, c]) >> loan.low) % 2**loan.count * 2**loan.place for loan in loans)
            for c in range(packed.shape[1])
        ]
        for loans in LOANS[bits]
    ]
    return [code for row in own + extra for code in row]


def weight_of(codes: np.ndarray, bits: int) -> QuantizedWeight:
    scale = np.random.default_rng(bits).lognormal(-3, 1, len(codes)).astype(np.float32)
    return QuantizedWeight(codes, scale, bits, Grid.MID_TREAD)


def converted(
    weight: QuantizedWeight,
    target: str,
    *,
    packing: str = "exact",
    activation_bits: int = 8,
    bias: np.ndarray | None = None,
) -> onnx.ModelProto:
    model = as_ir(one_matmul(weight.dequantize().T, bias))
    plan = plan_for(["fc"], weight_bits=weight.bits, activation_bits=activation_bits, low=-3.0, high=2.5)
    result = convert_model(model, plan, packing=packing, target=TARGETS[target], weights={"fc": weight})
    return as_proto(result.model)


def dequantize_of(model: onnx.ModelProto) -> onnx.NodeProto:
    """What scales the weight of the layer fc."""
    return next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "fc.weight" in node.name)


def random_weight(bits: int, outputs: int = 48, inputs: int = 64) -> QuantizedWeight:
    """Any codes; those of the first output are the largest ones, and those of the second one zero."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (outputs, inputs)).astype(np.uint8)
    codes[:2] = [[2**bits - 1], [0]]
    return weight_of(codes, bits)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("bits", sorted(LOANS))
def test_bits_of_a_group_are_the_bits_of_its_codes(bits: int) -> None:
    assert bytes_in_group(bits) * 8 == codes_in_group(bits) * bits
    lent = {
        (loan.byte, bit) for loans in LOANS[bits] for loan in loans for bit in range(loan.low, loan.low + loan.count)
    }
    assert len(lent) == sum(loan.count for loans in LOANS[bits] for loan in loans)
    assert lent == {(byte, bit) for byte in range(bytes_in_group(bits)) for bit in range(bits, 8)}
    for loans in LOANS[bits]:
        places = [loan.place + at for loan in loans for at in range(loan.count)]
        assert sorted(places) == list(range(bits))


@pytest.mark.parametrize("bits", SHARED)
@pytest.mark.parametrize("columns", [1, 2, 500])
def test_every_code_comes_back(bits: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    codes = rng.integers(0, 2**bits, codes_in_group(bits) * columns).astype(np.uint8)
    packed = share_bytes(codes, bits)
    assert packed.shape == (bytes_in_group(bits), columns)
    assert packed.dtype == np.uint8
    assert read_bit_by_bit(packed, bits) == codes.tolist()


@pytest.mark.parametrize("bits", SHARED)
@pytest.mark.parametrize("place", range(8))
def test_every_value_in_every_place_among_extremes(bits: int, place: int) -> None:
    group = codes_in_group(bits)
    for others in (0, 2**bits - 1):
        codes = np.full((group, 2**bits), others, np.uint8)
        codes[place % group] = np.arange(2**bits)
        assert read_bit_by_bit(share_bytes(codes.reshape(-1), bits), bits) == codes.reshape(-1).tolist()


@pytest.mark.parametrize("bits", SHARED)
@pytest.mark.parametrize("shape", [(5, 8), (3, 16), (64, 24)])
def test_levels_in_every_evaluator(bits: int, shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, shape).astype(np.uint8)
    codes.flat[0], codes.flat[-1] = 2**bits - 1, 0
    weight = weight_of(codes, bits)
    model = converted(weight, "onnxruntime-x86-avx2")
    assert {"BitwiseAnd", "BitShift"} <= operators(model)
    assert "Gather" not in operators(model)
    data = constants(model)
    stored = [array for name, array in data.items() if name.startswith(f"fc.weight.bits{bits}")]
    assert sum(array.nbytes for array in stored) * 8 == codes.size * bits

    # The integers themselves, as the first node that is not of the unpacking reads them.
    scaled = dequantize_of(model)
    integers = ReferenceEvaluator(_ending_at(model, scaled.input[0])).run(None, {})[0]
    assert integers.dtype == np.int8
    zero = data[scaled.input[2]].astype(int) if len(scaled.input) > 2 else 0
    np.testing.assert_array_equal(integers - zero, codes.T.astype(int) - 2 ** (bits - 1))

    x = np.random.default_rng(0).uniform(-3, 2.5, (2, 3, shape[1])).astype(np.float32)
    looked_up = converted(weight, "openvino-x86-vnni")
    for level in LEVELS:
        np.testing.assert_array_equal(run(model, x, level), run(looked_up, x, level))
    np.testing.assert_array_equal(reference(model, x), reference(looked_up, x))


@pytest.mark.parametrize("target", ONNXRUNTIME)
@pytest.mark.parametrize("bits", SHARED)
def test_codes_that_never_saturate_are_read_as_they_are(bits: int, target: str) -> None:
    """The AVX2 kernels without VNNI add two products of uint8 and int8 in 16 bits; the file may run there as well."""
    model = converted(random_weight(bits), target)
    zeros = [constants(model)[name] for name in dequantize_of(model).input[2:]]
    if 2 * 255 * (2**bits - 1) > 32767:
        assert zeros == []
    else:
        (zero,) = zeros
        assert zero.dtype == np.int8
        np.testing.assert_array_equal(zero, np.full(48, 2 ** (bits - 1)))


@pytest.mark.parametrize("target", ONNXRUNTIME)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("bits", SHARED)
def test_kernels_and_results_are_those_of_containers(bits: int, with_bias: bool, target: str) -> None:
    weight = random_weight(bits)
    bias = np.random.default_rng(0).normal(size=48).astype(np.float32) if with_bias else None
    model, plain = (converted(weight, target, packing=packing, bias=bias) for packing in ("exact", "container"))
    found = kernels(model)
    assert found == kernels(plain)
    assert ("QGemm" if with_bias and TARGETS[target].gemm_bias else "MatMulIntegerToFloat") in found
    # More rows than any kernel takes at once, and extreme ones.
    x = np.random.default_rng(1).uniform(-3, 2.5, (30, 3, 64)).astype(np.float32)
    x[0] = [[-4.0], [4.0], [0.0]]
    for level in LEVELS:
        np.testing.assert_array_equal(run(model, x, level), run(plain, x, level))
    wanted = reference(model, x)
    np.testing.assert_array_equal(wanted, reference(plain, x))
    np.testing.assert_allclose(run(model, x, LEVELS[-1]), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    (layer,) = inspect_model(as_ir(model))
    assert (layer.weight_bits, layer.storage, layer.parameters) == (bits, "exact", weight.codes.size)
    assert layer.bytes == weight.codes.size * bits // 8


@pytest.mark.parametrize("activation_bits", [16, 32])
@pytest.mark.parametrize("bits", SHARED)
def test_float_kernels_read_levels(bits: int, activation_bits: int) -> None:
    weight = random_weight(bits)
    model, plain = (
        converted(weight, "onnxruntime-x86-avx2", packing=packing, activation_bits=activation_bits)
        for packing in ("exact", "container")
    )
    assert kernels(model) == kernels(plain)
    x = np.random.default_rng(1).uniform(-3, 2.5, (30, 3, 64)).astype(np.float32)
    for level in LEVELS:
        np.testing.assert_array_equal(run(model, x, level), run(plain, x, level))
    np.testing.assert_array_equal(reference(model, x), reference(plain, x))


def _ending_at(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The nodes that make ``name``, alone."""
    wanted, nodes = {name}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.insert(0, node)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None)
    graph = onnx.helper.make_graph(nodes, "part", [], [output], constants)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)


def test_weights_without_whole_groups_are_looked_up() -> None:
    ones = np.ones((8, 9), np.uint8)
    assert [bits for bits in range(1, 9) if shares_bytes(weight_of(np.ones((9, 8), np.uint8), bits))] == SHARED
    for bits in SHARED:
        assert not shares_bytes(weight_of(ones, bits))
        assert operators(converted(weight_of(ones, bits), "onnxruntime-x86-avx2")) >= {"Gather"}


@pytest.mark.parametrize("bits", SHARED)
def test_no_step_leaves_its_type(bits: int) -> None:
    """Runtimes saturate, wrap or round what does; every intermediate is compared with the same step in int64."""
    model = converted(random_weight(bits), "onnxruntime-x86-vnni")
    unpacking = _ending_at(model, dequantize_of(model).input[0])
    values = {name: array.astype(np.int64) for name, array in constants(unpacking).items()}
    steps = {
        "Add": np.add,
        "Sub": np.subtract,
        "Min": np.minimum,
        "Max": np.maximum,
        "BitwiseAnd": np.bitwise_and,
        "BitShift": lambda a, b: a / 2**b,  # exact only where no bit is dropped
    }
    kinds = {"uint8": (0, 255), "int8": (-128, 127)}
    for node in unpacking.graph.node:
        inputs = [values[name] for name in node.input]
        found = ReferenceEvaluator(_ending_at(model, node.output[0])).run(None, {})[0]
        if node.op_type in steps:
            wanted = steps[node.op_type](*inputs)
            np.testing.assert_array_equal(found, wanted, err_msg=node.op_type)
            low, high = kinds[str(found.dtype)]
            assert low <= wanted.min() <= wanted.max() <= high
        else:
            assert node.op_type in {"Concat", "Cast", "Split", "Reshape", "MatMulInteger"}
        if node.op_type == "Cast":
            np.testing.assert_array_equal(found, inputs[0] % 256)
        for name, array in zip(node.output, _all_outputs(model, node), strict=True):
            values[name] = array.astype(np.int64)


def _all_outputs(model: onnx.ModelProto, node: onnx.NodeProto) -> list[np.ndarray]:
    return [ReferenceEvaluator(_ending_at(model, name)).run(None, {})[0] for name in node.output]


def test_graphs_of_older_opsets_are_looked_up() -> None:
    weight = random_weight(6)
    model = as_ir(one_matmul(weight.dequantize().T, None))
    model.opset_imports[""] = 17
    plan = plan_for(["fc"], weight_bits=6, low=-3.0, high=2.5)
    result = convert_model(model, plan, packing="exact", target=TARGETS["onnxruntime-x86-vnni"], weights={"fc": weight})
    old = as_proto(result.model)
    assert old.opset_import[0].version == 17
    assert "Gather" in operators(old)
    assert "BitwiseAnd" not in operators(old)
    x = np.random.default_rng(1).uniform(-3, 2.5, (4, 3, 64)).astype(np.float32)
    for level in LEVELS:
        np.testing.assert_array_equal(run(old, x, level), run(converted(weight, "onnxruntime-x86-vnni"), x, level))


@pytest.mark.parametrize("activation_bits", [4, 8, 16, 32])
@pytest.mark.parametrize("target", [*ONNXRUNTIME, "openvino-x86-vnni"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_openvino_reads_every_exact_file(bits: int, target: str, activation_bits: int) -> None:
    """In float32 it is exact also with its own rounding of inputs (DYNAMIC_QUANTIZATION_GROUP_SIZE) left on.

    The exception are products of uint8, written for CPUs without VNNI: on one with it, OpenVINO rounds their inputs.
    Where int8 products of 8 bits saturate, their levels are within +-64 here.
    """
    openvino = pytest.importorskip("openvino")
    if target.startswith("openvino") and activation_bits == 16:
        pytest.skip("the target has no inputs of 16 bits")
    rounded = target == "onnxruntime-x86-avx2" and bits == 8 and activation_bits <= 8
    exact = {"INFERENCE_PRECISION_HINT": "f32", **({"EXECUTION_MODE_HINT": "ACCURACY"} if rounded else {})}
    saturates = bits == 8 and activation_bits <= 8 and not rounded and not EXACT_INT8
    least, most = (64, 192) if saturates else (0, 2**bits - 1)
    for shape in ((48, 64), (16, 56), (8, 9)) if activation_bits in (8, 32) else ((48, 64),):
        codes = np.random.default_rng(bits).integers(least, most + 1, shape).astype(np.uint8)
        codes[:2] = [[most], [least]]
        weight = weight_of(codes, bits)
        model = converted(weight, target, activation_bits=activation_bits)
        x = np.random.default_rng(1).uniform(-3, 2.5, (7, 3, shape[1])).astype(np.float32)
        core = openvino.Core()
        for options in ({}, exact):
            compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
            found, wanted = compiled(x)[0], reference(model, x)
            # By default OpenVINO may compute in bfloat16, of 8 bits.
            bound = (1e-4 if activation_bits == 16 else 1e-5) if options else 2e-2
            assert np.linalg.norm(found - wanted) <= bound * np.linalg.norm(wanted)


@pytest.mark.parametrize("bits", SHARED)
def test_constants_are_shared_between_layers(bits: int) -> None:
    b, x = Builder(), "x"
    for name, outputs in (("a", 8), ("b", 8), ("c", 16)):
        x = b.op("Relu", b.op("MatMul", x, b.random(f"{name}.weight", 8, outputs)))
    b.rename(x, "y")
    model = as_ir(b.model({"x": ["n", 2, 8]}, {"y": ["n", 2, 16]}))
    plan = plan_for(["a", "b", "c"], weight_bits=bits)
    proto = as_proto(convert_model(model, plan, packing="exact", target=TARGETS["onnxruntime-arm64"]).model)
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(names) == len(set(names))
    middle = {"lampq.middle.b7"} if bits == 7 else {f"lampq.middle.b{bits}.8", f"lampq.middle.b{bits}.16"}
    assert {name for name in names if name.startswith("lampq.middle")} == middle
    assert f"lampq.byte{254 if bits == 7 else 2**bits - 1}" in names


@pytest.mark.parametrize("bits", SHARED)
def test_one_weight_before_both_kernels_is_unpacked_once(bits: int) -> None:
    b = Builder(5)
    weight = b.random("fc.weight", 8, 8)
    b.rename(b.op("MatMul", b.op("Relu", b.op("MatMul", "x", weight, name="one")), weight, name="two"), "y")
    interval = ActivationRange(low=-3.0, high=3.0)
    layers = {
        name: LayerPlan(weight_bits=bits, activation_bits=inputs, activation_range=interval)
        for name, inputs in (("one", 8), ("two", 32))
    }
    plan = BitPlan(layers=layers)
    model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    exact, plain = (
        as_proto(convert_model(as_ir(model), plan, packing=packing, target=TARGETS["onnxruntime-x86-vnni"]).model)
        for packing in ("exact", "container")
    )
    assert [node.op_type for node in exact.graph.node].count("Concat") == 1
    found = {layer.name: layer for layer in inspect_model(as_ir(exact))}
    assert {name: (layer.bytes, layer.parameters) for name, layer in found.items()} == dict.fromkeys(
        layers, (64 * bits // 8, 64)
    )
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 8)).astype(np.float32)
    for level in LEVELS:
        np.testing.assert_array_equal(run(exact, x, level), run(plain, x, level))
    np.testing.assert_array_equal(reference(exact, x), reference(plain, x))
