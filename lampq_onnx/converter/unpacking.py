"""Standard operators that turn the bytes of exact storage back into integers, see `bit_layout`.

onnxruntime folds them when the session is created, and keeps every constant that it folds until all are. Loading time
therefore goes with the bytes that the nodes write, more than with what they compute.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.bit_layout import (
    FIELD_WIDTHS,
    LOANS,
    FieldKey,
    Loan,
    field_table,
    loan_matrix,
    pack,
    pair_table,
    share_bytes,
)
from lampq_onnx.quantization import QuantizedWeight

PRODUCT_BITS = 7
"""Width whose codes without a byte of their own come from one product. It writes int32 for one code in eight, and its
output has to be reshaped; at 5 and 6 bits, for 3 codes in 8 and 1 in 4, sums of multiples write less."""

CODE_BITS = 6
"""Widest codes that an integer kernel may read as they are, with their middle as the zero point. Without VNNI, it adds
two products of uint8 and int8 in 16 bits: 2 * 255 * 63 fits, the codes of 7 bits do not."""


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """An initializer that is in no graph yet."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))


class Unpacking:
    """Nodes and new constants that bring one weight's integers back.

    Attributes:
        nodes: in topological order.
        new: constants that are not in the graph yet.
        bytes: of the packed weights.

    Args:
        name: prefix of tensors and nodes.
        tables: constants that layers share, by name; new ones are added.
    """

    def __init__(self, name: str, tables: dict[str, ir.Value]) -> None:
        self.name = name
        self._tables = tables
        self.nodes: list[ir.Node] = []
        self.new: list[ir.Value] = []
        self.bytes = 0

    def then(self, operator: str, inputs: list[ir.Value], step: str | None, **attributes: int | str) -> ir.Value:
        """Add a node with one output; without a ``step`` it has no name, which takes room in the file."""
        node = ir.node(operator, inputs, attributes, name=None if step is None else f"{self.name}.{step}")
        self.nodes.append(node)
        return node.outputs[0]

    def own(self, step: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A constant of this weight alone."""
        self.new.append(constant(f"{self.name}.{step}", array))
        return self.new[-1]

    def packed(self, step: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Packed weights, which are counted."""
        self.bytes += array.nbytes
        return self.own(step, array)

    def shared(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A constant that layers share."""
        if name not in self._tables:
            self._tables[name] = constant(name, array)
            self.new.append(self._tables[name])
        return self._tables[name]


def look_up_fields(weight: QuantizedWeight, graph: Unpacking, paired: Collection[FieldKey]) -> ir.Value:
    """Levels (inputs, outputs) as the sum of looked up fields.

    Args:
        paired: fields that are looked up two bytes at once, see `paired_fields`.
    """
    codes = np.ascontiguousarray(weight.codes.T)
    count = codes.size
    shape = graph.own("shape", np.array(codes.shape, np.int64))
    parts: list[tuple[ir.Value, int]] = []
    shift = weight.bits
    for width in FIELD_WIDTHS:
        if not weight.bits & width:
            continue
        shift -= width
        packed = pack(((codes >> shift) & (2**width - 1)).astype(np.uint8), width)
        part = f"bits{width}"
        # Pairs of bytes where the weight has a whole number of them.
        pair = (weight.grid, weight.bits, width) in paired and count % (16 // width) == 0
        data = graph.packed(part, packed.view("<u2") if pair else packed)
        rows = field_table(weight.grid, weight.bits, width, shift)
        key = f"lampq.table.{weight.grid.value}.b{weight.bits}.f{width}"
        table = graph.shared(f"{key}.pairs", pair_table(rows)) if pair else graph.shared(key, rows)
        index = graph.then("Cast", [data], f"{part}.index", to=ir.DataType.INT32.value)
        last = graph.then("Gather", [table, index], f"{part}.levels", axis=0)
        if count % (8 // width):
            flat = graph.shared("lampq.flat", np.array([-1], np.int64))
            start = graph.shared("lampq.start", np.array([0], np.int64))
            end = graph.own(f"{part}.end", np.array([count], np.int64))
            line = graph.then("Reshape", [last, flat], f"{part}.flat")
            last = graph.then("Slice", [line, start, end], f"{part}.cut")
            parts.append((last, 1))
        else:
            parts.append((last, (16 if pair else 8) // width))
    alike = len({row for _, row in parts}) == 1
    if not alike:
        parts = [(graph.then("Reshape", [value, shape], f"matrix{at}"), 1) for at, (value, _) in enumerate(parts)]
    joined = parts[0][0]
    for at, (value, _) in enumerate(parts[1:], 1):
        joined = graph.then("Add", [joined, value], f"join{at}")
    return graph.then("Reshape", [joined, shape], "matrix") if alike else joined


def read_shared_bytes(weight: QuantizedWeight, graph: Unpacking) -> tuple[ir.Value, ir.Value | None]:
    """Integers of bytes that share their spare bits.

    Returns:
        (inputs, outputs) int8, and their zero point (outputs,): codes up to `CODE_BITS`, which saves a pass over all
        weights; above them levels, and None.
    """
    bits = weight.bits
    inputs, outputs = weight.codes.shape[::-1]
    packed = share_bytes(np.ascontiguousarray(weight.codes.T).reshape(-1), bits)
    if bits == PRODUCT_BITS:
        data = graph.packed(f"bits{bits}", packed)
        matrix = graph.shared(f"lampq.loans.b{bits}", loan_matrix(bits))
        total = graph.then("MatMulInteger", [matrix, data], "total")
        # Cast to a narrower integer drops the high bits.
        pieces = [data, graph.then("Cast", [total], "rest", to=ir.DataType.UINT8.value)]
    else:
        blocks = packed.reshape(len(packed), -1, outputs)
        pieces = [graph.packed(f"bits{bits}.{at}", block) for at, block in enumerate(blocks)]
        pieces += [_sum_of_loans(graph, pieces, loans) for loans in LOANS[bits]]
    joined = graph.then("Concat", pieces, "bytes", axis=0)
    spare = graph.shared(f"lampq.spare.b{bits}", np.array([8 - bits], np.uint8))
    code = graph.then("BitShift", [joined, spare], "codes", direction="RIGHT")
    last = graph.then("Cast", [code], "int8", to=ir.DataType.INT8.value)
    zero = None
    if bits <= CODE_BITS:
        zero = graph.shared(f"lampq.middle.b{bits}.{outputs}", np.full(outputs, 2 ** (bits - 1), np.int8))
    else:
        middle = graph.shared(f"lampq.middle.b{bits}", np.array([2 ** (bits - 1)], np.int8))
        last = graph.then("Sub", [last, middle], "levels")
    if bits == PRODUCT_BITS:
        last = graph.then("Reshape", [last, graph.own("shape", np.array([inputs, outputs], np.int64))], "matrix")
    return last, zero


def _sum_of_loans(graph: Unpacking, blocks: list[ir.Value], loans: tuple[Loan, ...]) -> ir.Value:
    """The codes of one row, in uint8 and so modulo 256."""
    parts = []
    for loan in loans:
        factor = graph.shared(f"lampq.times{loan.factor}", np.array([loan.factor], np.uint8))
        parts.append(graph.then("Mul", [blocks[loan.byte], factor], None))
    total = parts[0]
    for part in parts[1:]:
        total = graph.then("Add", [total, part], None)
    return total
