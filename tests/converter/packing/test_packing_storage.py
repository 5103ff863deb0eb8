from __future__ import annotations

import math
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.converter import convert_model
from lampq_onnx.converter.packing.bit_layout import FIELD_WIDTHS, field_table, pack, pair_table, paired_fields
from lampq_onnx.quantization import INTEGER_GRIDS, ActivationQuantizer, Grid, QuantizedWeight
from lampq_onnx.targets import PACKINGS, TARGETS
from tests.converter.graphs import (
    LEVELS,
    as_ir,
    as_proto,
    one_matmul,
    plan_for,
    reference,
    run,
    session,
    with_outputs,
)
from tests.processor import EXACT_INT8

BITS = range(1, 9)
SHAPES = [(1, 1), (1, 7), (7, 1), (3, 5), (2, 8), (9, 16), (7, 13)]
"""(outputs, inputs)"""

ACTIVATION = ActivationQuantizer.from_range(-3.0, 2.5, 8)


def grids(bits: int) -> list[Grid]:
    return [Grid.MID_RISE] if bits == 1 else list(INTEGER_GRIDS) if bits <= 4 else [Grid.MID_TREAD]


CASES = [(bits, grid) for bits in BITS for grid in grids(bits)]


def random_weight(shape: tuple[int, int], bits: int, grid: Grid) -> QuantizedWeight:
    """Any codes, the extreme ones among them where there is room."""
    rng = np.random.default_rng([*shape, bits])
    codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
    codes.flat[0], codes.flat[-1] = 2**bits - 1, 0
    return QuantizedWeight(codes, rng.lognormal(-3, 1, shape[0]).astype(np.float32), bits, grid)


def converted(weight: QuantizedWeight, packing: str, target: str) -> tuple[onnx.ModelProto, object]:
    model = one_matmul(weight.dequantize().T)
    conversion = convert_model(
        as_ir(model),
        plan_for(["fc"], weight_bits=weight.bits, low=-3.0, high=2.5),
        packing=packing,
        target=TARGETS[target],
        weights={"fc": weight},
    )
    return as_proto(conversion.model), conversion.stored["fc"]


def plain_qdq(integers: np.ndarray, scale: np.ndarray) -> onnx.ModelProto:
    """The textbook graph: one int8 a weight (inputs, outputs), DequantizeLinear, MatMul."""
    inputs, outputs = integers.shape
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
            helper.make_node("MatMul", ["xd", "wd"], ["y"]),
        ],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, outputs])],
        [
            numpy_helper.from_array(np.float32(ACTIVATION.scale), "xs"),
            numpy_helper.from_array(np.uint8(ACTIVATION.zero_point), "xz"),
            numpy_helper.from_array(integers.astype(np.int8), "w"),
            numpy_helper.from_array(scale, "ws"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def levels_by_hand(weight: QuantizedWeight) -> np.ndarray:
    """What each code stands for, one by one."""
    result = np.zeros(weight.codes.shape, np.int64)
    for at, code in np.ndenumerate(weight.codes):
        if weight.grid is Grid.MID_RISE:
            result[at] = 2 * int(code) - (2**weight.bits - 1)
        else:
            result[at] = int(code) - 2 ** (weight.bits - 1)
    return result


def promised_bytes(count: int, bits: int, packing: str) -> int:
    if packing == "container" or bits == 8:
        return count
    if packing == "native":
        return math.ceil(count * (2 if bits <= 2 else 4 if bits <= 4 else 8) / 8)
    return sum(math.ceil(count * width / 8) for width in (4, 2, 1) if bits & width)


@pytest.mark.parametrize("target", ["onnxruntime-x86-avx2", "onnxruntime-x86-vnni"])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("bits", "grid"), CASES)
def test_every_storage_is_the_plain_graph(bits: int, grid: Grid, packing: str, target: str) -> None:
    exact_kernel = bits < 8 or target == "onnxruntime-x86-avx2" or EXACT_INT8
    for shape in SHAPES:
        weight = random_weight(shape, bits, grid)
        model, stored = converted(weight, packing, target)
        integers = levels_by_hand(weight).T
        float_weight = integers.astype(np.float32) * weight.scale

        # bytes
        assert stored.bytes == promised_bytes(weight.codes.size, bits, packing)
        packed = [
            tensor
            for tensor in model.graph.initializer
            if tensor.name == "fc.weight.quantized" or re.fullmatch(r"fc\.weight\.bits\d(\.\d)?", tensor.name)
        ]
        assert sum(len(tensor.raw_data) for tensor in packed) == stored.bytes
        assert not [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]

        # the weight itself, folded and in onnx's evaluator
        product = next(node for node in model.graph.node if node.op_type == "MatMul")
        probe = with_outputs(model, product.input[1])
        feed = np.random.default_rng(bits).normal(0, 2, (2, 3, shape[1])).astype(np.float32)
        np.testing.assert_array_equal(run(probe, feed, LEVELS[-1]), float_weight)
        np.testing.assert_array_equal(reference(probe, feed), float_weight)
        np.testing.assert_array_equal(weight.dequantize().T, float_weight)

        # the model, at all levels
        plain = plain_qdq(integers, weight.scale)
        np.testing.assert_array_equal(run(model, feed), run(plain, feed))
        wanted = reference(plain, feed)
        bound = 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(reference(model, feed), wanted, rtol=1e-5, atol=bound)
        for level in LEVELS:
            if exact_kernel or level == LEVELS[0]:
                np.testing.assert_allclose(run(model, feed, level), wanted, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", BITS)
def test_numbers_against_numpy(bits: int, packing: str) -> None:
    """A layer with a bias, computed with loops over levels and no ONNX at all."""
    rng = np.random.default_rng(bits)
    weight, bias = rng.normal(size=(11, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    conversion = convert_model(
        as_ir(one_matmul(weight, bias)),
        plan_for(["fc"], weight_bits=bits, low=-2.0, high=3.0),
        packing=packing,
        target=TARGETS["onnxruntime-x86-avx2"],
    )
    x = rng.normal(size=(4, 3, 11)).astype(np.float32)
    scale = np.float32(5 / 255)
    zero = round(2 / float(scale))
    level = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    rounded = np.zeros_like(weight, np.float64)
    quantized = conversion.parameters["fc"].weight
    for (output, position), code in np.ndenumerate(quantized.codes):
        top = 2**bits - 1
        value = 2 * int(code) - top if quantized.grid is Grid.MID_RISE else int(code) - (top + 1) // 2
        rounded[position, output] = value * float(quantized.scale[output])
    wanted = (level * float(scale)) @ rounded + bias
    np.testing.assert_allclose(run(as_proto(conversion.model), x, LEVELS[-1]), wanted, rtol=1e-4, atol=1e-5)
    if bits == 8:
        np.testing.assert_allclose(rounded, weight, atol=0.02)


@pytest.mark.parametrize("bits", BITS)
def test_exact_takes_b_bits_and_the_file_shrinks(bits: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(96, 80)).astype(np.float32)
    size = {}
    for packing in PACKINGS:
        model = as_ir(one_matmul(matrix))
        target = TARGETS["onnxruntime-x86-vnni"]
        conversion = convert_model(model, plan_for(["fc"], weight_bits=bits), packing=packing, target=target)
        size[packing] = len(as_proto(conversion.model).SerializeToString())
        stored = conversion.stored["fc"]
        if packing == "exact":
            assert stored.bytes == matrix.size * bits // 8
            assert stored.storage == ("int8" if bits == 8 else "exact")
        if packing == "native":
            assert stored.storage == ("int2" if bits <= 2 else "int4" if bits <= 4 else "int8")
        if packing == "container":
            assert stored.storage == "int8"
    plan_and_names = 4000
    tables = sum(256 * 8 // width for width in FIELD_WIDTHS if bits & width) if bits < 8 else 0
    assert size["exact"] <= matrix.size * bits / 8 + 4 * 80 + tables + plan_and_names
    assert size["container"] >= matrix.size


@pytest.mark.parametrize("bits", [8])
def test_eight_bits_without_exact_int8(bits: int) -> None:
    weight = random_weight((7, 13), bits, Grid.MID_TREAD)
    model, stored = converted(weight, "exact", "onnxruntime-x86-avx2")
    assert stored.storage == "uint8"
    data = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(data["fc.weight.zero_point"], np.full(7, 128, np.uint8))
    np.testing.assert_array_equal(data["fc.weight.quantized"].astype(int) - 128, levels_by_hand(weight).T)
    assert converted(weight, "exact", "onnxruntime-x86-vnni")[1].storage == "int8"


@pytest.mark.parametrize("bits", range(1, 8))
def test_no_signed_level_saturates_without_vnni(bits: int) -> None:
    """Two products of uint8 and int8 are added in 16 bits there: 2 * 255 * 64 fits."""
    for grid in grids(bits):
        weight = random_weight((4, 64), bits, grid)
        assert 2 * 255 * int(np.abs(weight.integers().astype(int)).max()) <= 32767


@pytest.mark.parametrize("width", FIELD_WIDTHS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 64])
def test_pack_bit_by_bit(width: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 2**width, count).astype(np.uint8)
    bits = "".join(format(code, f"0{width}b")[::-1] for code in codes)  # lowest bit first
    bits += "0" * (-len(bits) % 8)
    wanted = [int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(pack(codes, width), wanted)


@pytest.mark.parametrize(("bits", "grid"), [case for case in CASES if case[0] < 8])
def test_tables_add_up_to_the_levels(bits: int, grid: Grid) -> None:
    for code in range(2**bits):
        total, shift = 0, bits
        for width in FIELD_WIDTHS:
            if bits & width:
                shift -= width
                field = (code >> shift) & (2**width - 1)
                table = field_table(grid, bits, width, shift)
                assert table.shape == (256, 8 // width)
                for slot in range(8 // width):  # wherever in the byte the field lies
                    assert table[field << (slot * width), slot] == table[field, 0]
                total += int(table[field, 0])
        assert total == (2 * code - (2**bits - 1) if grid is Grid.MID_RISE else code - 2 ** (bits - 1))


def test_tables_are_shared_between_layers() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b.weight"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 5])],
        [numpy_helper.from_array(matrix, "a.weight"), numpy_helper.from_array(matrix * 1.7, "b.weight")],
    )
    for packing in PACKINGS:
        model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
        plan = plan_for(["a", "b"], weight_bits=3)
        proto = as_proto(convert_model(model, plan, packing=packing, target=TARGETS["onnxruntime-arm64"]).model)
        names = [tensor.name for tensor in proto.graph.initializer]
        assert len(names) == len(set(names))
        assert sum(len(t.dims) == 2 and t.dims[0] == 256 for t in proto.graph.initializer) == 2 * (packing == "exact")
        session(proto, LEVELS[-1])


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_channel_of_zeros_answers_zero(bits: int, packing: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    matrix[:, 2] = 0
    plan, target = plan_for(["fc"], weight_bits=bits), TARGETS["onnxruntime-x86-avx2"]
    model = as_proto(convert_model(as_ir(one_matmul(matrix)), plan, packing=packing, target=target).model)
    x = np.random.default_rng(1).normal(size=(2, 3, 9)).astype(np.float32)
    for level in LEVELS:
        y = run(model, x, level)
        assert np.isfinite(y).all()
        assert np.abs(y[..., 2]).max() <= 1e-30
        assert np.abs(y[..., 0]).max() > 0.01


@pytest.mark.parametrize(("bits", "grid"), [case for case in CASES if case[0] < 8])
@pytest.mark.parametrize("shape", [(16, 8), (7, 13)])
def test_pairs_of_bytes_unpack_to_the_same_levels(
    bits: int, grid: Grid, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = random_weight(shape, bits, grid)
    x = np.random.default_rng(2).uniform(-3, 2.5, (2, 3, shape[1])).astype(np.float32)
    plain, _ = converted(weight, "exact", "openvino-x86-vnni")
    monkeypatch.setattr("lampq_onnx.quantization.pairs.PAIR_SHARE", 0)
    paired, stored = converted(weight, "exact", "openvino-x86-vnni")
    words = [t for t in paired.graph.initializer if t.data_type == TensorProto.UINT16]
    whole = [width for width in FIELD_WIDTHS if bits & width and weight.codes.size % (16 // width) == 0]
    assert len(words) == len(whole)
    assert stored.bytes == sum(-(-weight.codes.size * width // 8) for width in FIELD_WIDTHS if bits & width)
    for evaluate in (run, reference):
        assert np.array_equal(evaluate(paired, x), evaluate(plain, x))


def test_pairs_are_for_fields_that_outweigh_their_table() -> None:
    codes = np.zeros((1024, 1024), np.uint8)
    weights = [QuantizedWeight(codes, np.ones(1024, np.float32), 5, Grid.MID_TREAD)] * 16
    # 16 x 512 kB of 4-bit fields are 32 times the table of 256 kB; 16 x 128 kB of 1-bit fields are twice theirs.
    assert paired_fields(weights) == {(Grid.MID_TREAD, 5, 4)}
    assert paired_fields(weights[1:]) == set()
    table = field_table(Grid.MID_TREAD, 5, 4, 1)
    assert pair_table(table)[3 + 256 * 200].tolist() == [*table[3], *table[200]]
