"""Keep values in the form of rows between layers that read and write rows."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, shape_constant
from lampq_onnx.graph.nodes import constant_array, int_attribute, users
from lampq_onnx.graph.shapes import Dimension, dimensions
from lampq_onnx.targets import Target

_BY_ELEMENT = frozenset({"Gelu", "Relu", "Erf", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Elu"})
"""Operators of one input, which they change element by element."""

_BOTH = frozenset({"Add", "Sub", "Mul", "Div"})


class StayInRows(CountingPass):
    """Leave values in rows (-1, k) between one Gemm and the next.

    1. A Gemm writes rows, a Reshape gives them back the dimensions (n, ..., k) of the float graph, and a Reshape makes
       rows again for the next Gemm. Operators that work on elements or on the last dimension give the same numbers for
       rows: activation functions, QuantizeLinear with one scale, LayerNormalization, and sums or products of two such
       values or of one with a constant of one row.
       The leading dimensions of two values of a graph with one open size, the batch, are the same if their sum exists
       for every batch, also if shape inference gives them different names.
    2. These operators read rows; a Reshape behind them serves readers that need the dimensions, and goes if there are
       none. A Reshape of what has rows reads the rows, and a Reshape behind another one reads what that one reads.
    3. An operator on one value whose rows nothing reads keeps the dimensions: nothing is gained, and OpenVINO does not
       load a norm or a Mul of rows with a Reshape behind it if there are more tokens than channels (2026.4).
    4. Names of the float graph stay with the numbers: a value that it has too may be in rows here.

    Args:
        target: see `Target.rows`.
    """

    purpose = "values that stay in rows between layers"

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._target.rows:
            return 0
        self._graph = model.graph
        self._rows: dict[ir.Value, ir.Value] = {}
        self._widths: dict[ir.Value, int] = {}
        self._shapes: dict[ir.Value, tuple[Dimension, ...]] = {}
        open_sizes = {size for value in model.graph.inputs for size in dimensions(value) or () if isinstance(size, str)}
        self._only_batch = len(open_sizes) <= 1
        count, rewritten = 0, []
        for node in list(model.graph):
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Reshape":
                count += self._reshape(node)
            elif self._takes_rows(node):
                self._rewrite(node)
                rewritten.append(node)
        return count + sum(not self._give_back_dimensions(node) for node in reversed(rewritten))

    def _shape(self, value: ir.Value | None) -> tuple[Dimension, ...] | None:
        return None if value is None else self._shapes.get(value) or dimensions(value)

    def _reshape(self, node: ir.Node) -> bool:
        """Let a Reshape read rows, and note if its result has them."""
        source, target, result = node.inputs[0], node.inputs[1], node.outputs[0]
        if source is None or target is None or target.const_value is None:
            return False
        sizes, rows, after = constant_array(target).tolist(), self._rows.get(source), self._shape(result)
        width = self._widths[rows] if rows is not None else _columns(source)
        if after is not None and width is not None and len(after) > 2 and after[-1] == width:
            self._rows[result] = rows or source
            self._widths[rows or source] = width
            if rows is None and not result.is_graph_output():
                source.name, result.name = result.name, source.name  # the name of the float graph, for its numbers
        if rows is None and len(sizes) == 2 and sizes[0] == -1 and sizes[1] == (self._shape(source) or (0,))[-1]:
            self._rows[source], self._widths[result] = result, sizes[1]
            return False
        if 0 in sizes:  # a 0 copies a dimension of what the Reshape reads
            return False
        if rows is None:
            before = source.producer()
            if before is None or before.op_type != "Reshape":
                return False
            node.replace_input_with(0, before.inputs[0])
            return True
        if sizes == [-1, width] and not result.is_graph_output():
            result.replace_all_uses_with(rows)
            self._graph.remove(node, safe=True)
        else:
            node.replace_input_with(0, rows)
        return True

    def _takes_rows(self, node: ir.Node) -> bool:
        first, result = node.inputs[0] if node.inputs else None, node.outputs[0]
        if len([value for value in node.outputs if value.uses()]) != 1 or result.is_graph_output():
            return False
        shape, kind = self._shape(first), node.op_type
        if first is None or shape is None or not all(isinstance(size, int) for size in shape[1:]):
            return False
        if kind in _BOTH:
            return self._takes_both(node)
        if first not in self._rows:
            return False
        if kind == "LayerNormalization":
            return int_attribute(node, "axis", -1) in (-1, len(shape) - 1)
        if kind == "QuantizeLinear":
            scale = node.inputs[1]
            return scale is not None and scale.const_value is not None and scale.const_value.size == 1
        return kind in _BY_ELEMENT

    def _takes_both(self, node: ir.Node) -> bool:
        """Whether one input has rows, and the other has the same shape or is a constant of one row."""
        wanted = next((self._shape(value) for value in node.inputs if value in self._rows), None)
        return wanted is not None and all(
            self._alike(self._shape(value), wanted) or _one_row(value, wanted[-1]) for value in node.inputs
        )

    def _alike(self, shape: tuple[Dimension, ...] | None, other: tuple[Dimension, ...]) -> bool:
        """Whether two values that an operator joins have the same shape."""
        if shape is None or len(shape) != len(other):
            return False
        return all(
            a == b or (self._only_batch and isinstance(a, str) and isinstance(b, str))
            for a, b in zip(shape, other, strict=True)
        )

    def _rewrite(self, node: ir.Node) -> None:
        inputs = list(node.inputs if node.op_type in _BOTH else node.inputs[:1])
        shape = next(self._shape(value) for value in inputs if value in self._rows)
        assert shape is not None
        for position, value in enumerate(inputs):
            if value is not None and not _one_row(value, shape[-1]):
                node.replace_input_with(position, self._in_rows(value, shape, node))
        if node.op_type == "LayerNormalization":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)  # rows have two dimensions
        result = node.outputs[0]
        readers = [(use.node, use.idx) for use in result.uses()]
        sizes = (-1, *(int(size) for size in shape[1:]))
        back = ir.node("Reshape", [result, shape_constant(self._graph, sizes)], name="")
        self._graph.insert_after(node, back)
        result.shape = None  # readers infer it
        for reader, position in readers:
            reader.replace_input_with(position, back.outputs[0])
        self._shapes[back.outputs[0]] = shape
        self._rows[back.outputs[0]] = result
        self._widths[result] = int(shape[-1])

    def _give_back_dimensions(self, node: ir.Node) -> bool:
        """Give an operator on one value its dimensions back if only the Reshape behind it reads its rows.

        Runs after all rewrites, the last one first: only then is it known who reads rows.

        Returns:
            Whether it did.
        """
        result = node.outputs[0]
        readers = [user for user in users(result) if any(v.uses() or v.is_graph_output() for v in user.outputs)]
        back = readers[0] if len(readers) == 1 and not result.is_graph_output() else None
        operands = [i for i in range(len(node.inputs) if node.op_type in _BOTH else 1) if not _constant(node.inputs[i])]
        if back is None or back.op_type != "Reshape" or len(operands) != 1 or back.outputs[0].is_graph_output():
            return False
        shape = self._shapes.get(back.outputs[0])
        if shape is None:
            return False
        (at,) = operands
        sizes = (-1, *(int(size) for size in shape[1:]))
        before = ir.node("Reshape", [node.inputs[at], shape_constant(self._graph, sizes)], name="")
        self._graph.insert_before(node, before)
        self._shapes[before.outputs[0]] = shape
        node.replace_input_with(at, before.outputs[0])
        back.outputs[0].replace_all_uses_with(result)
        self._graph.remove(back, safe=True)
        result.shape = ir.Shape(shape)
        return True

    def _in_rows(self, value: ir.Value, shape: tuple[Dimension, ...], before: ir.Node) -> ir.Value:
        if value not in self._rows:
            width = int(shape[-1])
            reshape = ir.node("Reshape", [value, shape_constant(self._graph, (-1, width))], name="")
            self._graph.insert_before(before, reshape)
            self._rows[value] = reshape.outputs[0]
            self._widths[reshape.outputs[0]] = width
        return self._rows[value]


def _columns(value: ir.Value) -> int | None:
    """Return the number of columns of a Gemm's result, by its bias; None: not known, or something else made it."""
    node = value.producer()
    if node is None or node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = node.inputs[2]
    if bias.const_value is None and (maker := bias.producer()) is not None and maker.op_type == "DequantizeLinear":
        bias = maker.inputs[0] or bias
    if bias.const_value is None or len(bias.const_value.shape) != 1 or bias.const_value.size == 1:
        return None
    return int(bias.const_value.size)


def _constant(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def _one_row(value: ir.Value | None, width: int | str) -> bool:
    """Whether a value is a constant of one number, or of one for each column."""
    if value is None or value.const_value is None or len(value.const_value.shape) > 2:
        return False  # with three dimensions, the result would have as many
    sizes = value.const_value.shape.numpy()
    return value.const_value.size == 1 or (sizes[-1] == width and value.const_value.size == width)
