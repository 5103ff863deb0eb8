"""Standard operators that turn the bytes of exact storage back into integers, see `bit_layout`.

onnxruntime folds them when the session is created, and keeps every folded constant until all are folded. So loading
time depends on the bytes that the nodes write, more than on what they compute.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.packing.bit_layout import FIELD_WIDTHS, FieldKey, field_table, pack, pair_table
from lampq_onnx.quantization import QuantizedWeight


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Make an initializer that is not yet in a graph."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))


class Unpacking:
    """Nodes and new constants that restore one weight's integers.

    Attributes:
        nodes: in topological order.
        new: constants that are not in the graph yet.
        bytes: bytes of the packed weights.

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
        """Add a node with one output; without a ``step`` it has no name, because names take room in the file."""
        node = ir.node(operator, inputs, attributes, name=None if step is None else f"{self.name}.{step}")
        self.nodes.append(node)
        return node.outputs[0]

    def split(self, value: ir.Value, sizes: ir.Value, count: int, *, axis: int = 0) -> Sequence[ir.Value]:
        """Add a Split of an axis into ``count`` outputs of the given ``sizes``."""
        node = ir.node("Split", [value, sizes], {"axis": axis}, num_outputs=count)
        self.nodes.append(node)
        return node.outputs

    def transpose(self, value: ir.Value) -> ir.Value:
        """Add a Transpose of a matrix."""
        node = ir.node("Transpose", [value], {"perm": [1, 0]})
        self.nodes.append(node)
        return node.outputs[0]

    def sort(self, values: ir.Value, count: ir.Value) -> ir.Value:
        """Add a TopK that sorts all ``count`` values, the smallest first; return the indices they had."""
        node = ir.node("TopK", [values, count], {"axis": 0, "largest": 0, "sorted": 1}, num_outputs=2)
        self.nodes.append(node)
        return node.outputs[1]

    def part(self, step: str) -> Unpacking:
        """Return a collection for a part of the work, with a longer prefix; `join` takes it over."""
        return Unpacking(f"{self.name}.{step}", self._tables)

    def join(self, part: Unpacking) -> None:
        """Take over the nodes and constants of a part."""
        self.nodes += part.nodes
        self.new += part.new
        self.bytes += part.bytes

    def own(self, step: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Add a constant that only this weight uses."""
        self.new.append(constant(f"{self.name}.{step}", array))
        return self.new[-1]

    def packed(self, step: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Add packed weights, and count their bytes."""
        self.bytes += array.nbytes
        return self.own(step, array)

    def shared(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Add a constant that layers share."""
        if name not in self._tables:
            self._tables[name] = constant(name, array)
            self.new.append(self._tables[name])
        return self._tables[name]


def look_up_fields(weight: QuantizedWeight, graph: Unpacking, paired: Collection[FieldKey]) -> ir.Value:
    """Compute levels (inputs, outputs) as the sum of looked-up fields.

    Args:
        weight: codes to pack.
        graph: receives the nodes and constants.
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
        # Look up pairs of bytes if the weight has a whole number of them.
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
