"""Shared bytes: every code comes back, by plain arithmetic and by the nodes; OpenVINO reads what its target gets."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from lampq_onnx.converter import TARGETS, convert_model
from lampq_onnx.converter.bit_layout import (
    LOANS,
    Loan,
    bytes_in_group,
    codes_in_group,
    loan_matrix,
    share_bytes,
    shares_bytes,
)
from lampq_onnx.quantization import Grid, QuantizedWeight
from tests.converter.graphs import LEVELS, as_ir, as_proto, one_matmul, plan_for, reference, run

SHARED = sorted(LOANS)


def read_bit_by_bit(packed: np.ndarray, bits: int) -> list[int]:
    """The codes, with integers of Python and no matrix."""
    spare = 8 - bits
    own = [[int(byte) >> spare for byte in row] for row in packed]
    extra = []
    for loans in LOANS[bits]:
        totals = [sum(loan.factor * int(packed[loan.byte, c]) for loan in loans) for c in range(packed.shape[1])]
        extra.append([(total % 256) >> spare for total in totals])
    return [code for row in own + extra for code in row]


def weight_of(codes: np.ndarray, bits: int) -> QuantizedWeight:
    scale = np.random.default_rng(bits).lognormal(-3, 1, len(codes)).astype(np.float32)
    return QuantizedWeight(codes, scale, bits, Grid.MID_TREAD)


def converted(weight: QuantizedWeight, target: str) -> onnx.ModelProto:
    model = as_ir(one_matmul(weight.dequantize().T))
    plan = plan_for(["fc"], weight_bits=weight.bits, low=-3.0, high=2.5)
    result = convert_model(model, plan, packing="exact", target=TARGETS[target], weights={"fc": weight})
    return as_proto(result.model)


def factors(loans: tuple[Loan, ...]) -> set[int]:
    return {loan.factor for loan in loans}


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("bits", SHARED)
def test_bits_of_a_group_are_the_bits_of_its_codes(bits: int) -> None:
    assert bytes_in_group(bits) * 8 == codes_in_group(bits) * bits
    lent = {
        (loan.byte, bit) for loans in LOANS[bits] for loan in loans for bit in range(loan.low, loan.low + loan.count)
    }
    assert len(lent) == sum(loan.count for loans in LOANS[bits] for loan in loans)
    assert lent == {(byte, bit) for byte in range(bytes_in_group(bits)) for bit in range(8 - bits)}
    for loans in LOANS[bits]:
        assert sum(loan.count for loan in loans) == bits


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
def test_factors_shift_bits_out_of_the_way_of_the_code(bits: int) -> None:
    matrix = loan_matrix(bits)
    assert not (matrix % 2 ** (8 - bits)).any()
    assert (255 * matrix.astype(int).sum(axis=1)).max() < 2**31


@pytest.mark.parametrize("bits", SHARED)
@pytest.mark.parametrize("shape", [(5, 8), (3, 16), (64, 24)])
def test_levels_in_every_evaluator(bits: int, shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, shape).astype(np.uint8)
    codes.flat[0], codes.flat[-1] = 2**bits - 1, 0
    weight = weight_of(codes, bits)
    model = converted(weight, "onnxruntime-x86-avx2")
    assert {"BitShift", "MatMulInteger" if bits == 7 else "Mul"} <= operators(model)
    assert "Gather" not in operators(model)
    data = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = [array for name, array in data.items() if name.startswith(f"fc.weight.bits{bits}")]
    assert sum(array.nbytes for array in stored) * 8 == codes.size * bits

    # The integers themselves, as the first node that is not of the unpacking reads them.
    scaled = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "fc.weight" in node.name)
    levels = ReferenceEvaluator(_ending_at(model, scaled.input[0])).run(None, {})[0]
    assert levels.dtype == np.int8
    np.testing.assert_array_equal(levels, codes.T.astype(int) - 2 ** (bits - 1))

    x = np.random.default_rng(0).uniform(-3, 2.5, (2, 3, shape[1])).astype(np.float32)
    looked_up = converted(weight, "openvino")
    for level in LEVELS:
        np.testing.assert_array_equal(run(model, x, level), run(looked_up, x, level))
    np.testing.assert_array_equal(reference(model, x), reference(looked_up, x))


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
def test_openvino_reads_what_its_target_gets(bits: int) -> None:
    openvino = pytest.importorskip("openvino")
    codes = np.random.default_rng(bits).integers(0, 2**bits, (16, 8)).astype(np.uint8)
    model = converted(weight_of(codes, bits), "openvino")
    assert "BitShift" not in operators(model)
    name = next(node.input[0] for node in model.graph.node if "fc.weight.dequantize" in node.name)
    part = _ending_at(model, name)
    part.graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8]))
    part.graph.node.append(onnx.helper.make_node("Cast", [name], ["float"], to=onnx.TensorProto.FLOAT))
    part.graph.node.append(onnx.helper.make_node("MatMul", ["x", "float"], ["y"]))
    part.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(part.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(np.eye(8, dtype=np.float32))[0]
    np.testing.assert_array_equal(found, codes.T.astype(np.float32) - 2 ** (bits - 1))


@pytest.mark.parametrize("bits", SHARED)
def test_constants_are_shared_between_layers(bits: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "b.weight"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2, 8]) for name in "xy"]
    weights = [onnx.numpy_helper.from_array(matrix * k, name) for k, name in ((1, "a.weight"), (1.7, "b.weight"))]
    graph = onnx.helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    model = ir.from_proto(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    )
    target = TARGETS["onnxruntime-arm64"]
    proto = as_proto(convert_model(model, plan_for(["a", "b"], weight_bits=bits), packing="exact", target=target).model)
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(names) == len(set(names))
    assert {f"lampq.middle.b{bits}", f"lampq.spare.b{bits}"} <= set(names)
    constants = (
        {"lampq.loans.b7"} if bits == 7 else {f"lampq.times{f}" for loans in LOANS[bits] for f in factors(loans)}
    )
    assert {name for name in names if name.startswith(("lampq.loans", "lampq.times"))} == constants
