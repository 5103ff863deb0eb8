"""Operators that read weights of 5 to 7 bits from bytes that share their spare bits, see `bit_layout`.

Runtimes disagree on integer arithmetic that overflows its type. OpenVINO, for instance, saturates a product of uint8
and rounds the bits that a shift drops (2026.4). So every step here is exact: a mask clears bits before they would be
shifted out, and no sum or shift overflows. Only Cast to a narrower integer drops bits, as its specification says.

Loading time depends most on the bytes written (see `unpacking`), then on the number of nodes. BitwiseAnd and BitShift
take ten times as long as Add, Sub, Min, Max and Cast in onnxruntime, so the cheap ones are preferred.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.packing.bit_layout import PRODUCT_BITS, bytes_in_group, product_factors, share_bytes
from lampq_onnx.converter.packing.unpacking import Unpacking
from lampq_onnx.quantization import QuantizedWeight

Bytes = npt.NDArray[np.uint8]

FIRST_OPSET = 18
"""First opset with BitwiseAnd."""


def read_shared_bytes(
    weight: QuantizedWeight, graph: Unpacking, *, levels: bool = False
) -> tuple[ir.Value, ir.Value | None]:
    """Add the nodes that read a weight of 5 to 7 bits, and its packed bytes.

    Args:
        weight: codes to pack.
        graph: receives the nodes and constants.
        levels: subtract the zero point here, so that there is none.

    Returns:
        Integers (inputs, outputs) int8, and their zero point (outputs,). Up to 6 bits these are codes: the zero point
            saves a pass over all weights. With 7 bits they are levels, and there is no zero point: without VNNI, an
            integer kernel adds two products of uint8 and int8 in 16 bits, where 2 * 255 * 63 fits and 2 * 255 * 127
            does not.
    """
    bits, (outputs, inputs) = weight.bits, weight.codes.shape
    packed = share_bytes(np.ascontiguousarray(weight.codes.T).reshape(-1), bits)
    middle = 2 ** (bits - 1)
    if bits == PRODUCT_BITS:
        codes = _levels(graph, _seven(graph, packed), bits)
        shape = graph.own("shape", np.array([inputs, outputs], np.int64))
        return graph.then("Reshape", [codes, shape], "matrix"), None
    rows = packed.reshape(bytes_in_group(bits), -1, outputs)
    codes = _joined(graph, _five(graph, rows) if bits == 5 else _six(graph, rows))
    if levels:
        return _levels(graph, _int8(graph, codes), bits), None
    zero = np.full(outputs, middle, np.int8)
    return _int8(graph, codes), graph.shared(f"lampq.middle.b{bits}.{outputs}", zero)


def _levels(graph: Unpacking, codes: ir.Value, bits: int) -> ir.Value:
    """Subtract the middle level from int8 codes."""
    half = graph.shared(f"lampq.middle.b{bits}", np.array([2 ** (bits - 1)], np.int8))
    return graph.then("Sub", [codes, half], "levels")


def _five(graph: Unpacking, rows: Bytes) -> list[ir.Value]:
    """Read codes of 5 bits from (5, n, outputs) uint8. Bytes that are treated alike are one tensor."""
    first, split, last = rows[:2], rows[2:4], rows[4:]
    parts = [part.reshape(-1, part.shape[-1]) for part in (first, split, last)]
    own, spare = _halves(graph, parts, 5)
    # Two of the three spare bits of `split` go to the two codes of `first`, and one each to the code of `last`.
    two = graph.then("BitwiseAnd", [spare[1], _byte(graph, 0b11000000)], None)
    one = graph.then("Sub", [spare[1], two], None)
    pair = _right(graph, graph.then("Add", [_right(graph, two, 3), spare[0]], None), 3)
    size = graph.shared(f"lampq.split.{len(rows[0])}", np.full(2, len(rows[0]), np.int64))
    left, right = graph.split(one, size, 2)
    # Each holds 0 or 32, so the minimum of it and another power of two is that power or 0.
    low = graph.then("Add", [_min(graph, left, 16), _min(graph, right, 8)], None)
    single = _right(graph, graph.then("Add", [low, spare[2]], None), 3)
    return [*own, pair, single]


def _six(graph: Unpacking, rows: Bytes) -> list[ir.Value]:
    """Read codes of 6 bits from (3, n, outputs) uint8."""
    own, spare = _halves(graph, list(rows), 6)
    code = _right(graph, spare[2], 2)
    for part in (spare[1], spare[0]):
        code = _right(graph, graph.then("Add", [code, part], None), 2)
    return [*own, code]


def _seven(graph: Unpacking, packed: Bytes) -> ir.Value:
    """Read codes of 7 bits from (7, n) uint8; the result is int8."""
    data = graph.packed("bits7", packed)
    total = graph.then("MatMulInteger", [graph.shared("lampq.loans.b7", product_factors()), data], "total")
    # Cast to a narrower integer drops the high bits.
    rest = graph.then("Cast", [total], "rest", to=ir.DataType.UINT8.value)
    own = graph.then("BitwiseAnd", [data, _byte(graph, 0b11111110)], None)
    return _int8(graph, _right(graph, _joined(graph, [own, rest]), 1))


def _halves(graph: Unpacking, parts: list[Bytes], bits: int) -> tuple[list[ir.Value], list[ir.Value]]:
    """Pack ``parts``; return the codes in the low ``bits`` of each part, and the bytes without these bits."""
    mask = _byte(graph, 2**bits - 1)
    data = [graph.packed(f"bits{bits}.{at}", np.ascontiguousarray(part)) for at, part in enumerate(parts)]
    own = [graph.then("BitwiseAnd", [part, mask], None) for part in data]
    return own, [graph.then("Sub", [part, code], None) for part, code in zip(data, own, strict=True)]


def _joined(graph: Unpacking, pieces: list[ir.Value]) -> ir.Value:
    return graph.then("Concat", pieces, "bytes", axis=0)


def _int8(graph: Unpacking, codes: ir.Value) -> ir.Value:
    return graph.then("Cast", [codes], "int8", to=ir.DataType.INT8.value)


def _byte(graph: Unpacking, value: int) -> ir.Value:
    return graph.shared(f"lampq.byte{value}", np.array([value], np.uint8))


def _right(graph: Unpacking, value: ir.Value, count: int) -> ir.Value:
    """Shift ``value`` to the right; its lowest ``count`` bits are zero."""
    return graph.then("BitShift", [value, _byte(graph, count)], None, direction="RIGHT")


def _min(graph: Unpacking, value: ir.Value, bound: int) -> ir.Value:
    return graph.then("Min", [value, _byte(graph, bound)], None)
