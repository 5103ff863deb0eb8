"""Compute only the tokens that are read at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, place, take_over
from lampq_onnx.graph.nodes import constant_array, int_attribute, users
from lampq_onnx.graph.refusals import Refused
from lampq_onnx.graph.shapes import dimensions, same_reshaped

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})
_UNARY = frozenset(
    {"Gelu", "Erf", "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Swish", "Sqrt", "Neg", "Identity", "Clip"}
)
_NORMALIZATIONS = frozenset({"LayerNormalization", "RMSNormalization"})
SELECTED = ".selected"
"""Suffix of the names of tensors that hold only the selected tokens."""

_ROW = ".row"
MIN_OPSET = 13
"""First opset whose Squeeze takes its axes as an input."""


@dataclass(frozen=True)
class _Selection:
    """A Gather of one token that reads ``value``."""

    gather: ir.Node
    axis: int

    @property
    def value(self) -> ir.Value:
        found = self.gather.inputs[0]
        assert found is not None
        return found


class SelectEarly(CountingPass):
    """Move the choice of the class token to the front.

    1. A model that classifies by one token reads a single row of its last block. The Gather that picks it commutes with
       everything that treats tokens alike: it is moved before normalizations, linear layers, activation functions,
       residual Adds, and before attention as far as its queries. Keys and values still see all tokens.
    2. Only values that nothing else reads are narrowed. The selected dimension keeps size 1, so that layers stay
       three-dimensional (a Gemm has no integer kernel); a Squeeze replaces the Gather.
    3. Tensors that hold fewer tokens than before get the suffix .selected, so that none is mistaken for the whole
       tensor.
    4. The count is the number of operators that now see one token.
    """

    purpose = "choice of the token before the last block instead of after it"

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if model.graph.opset_imports.get("", 0) < MIN_OPSET:
            return self.settle("", Refused(f"it needs opset {MIN_OPSET}"))
        count = 0
        for node in list(model.graph):
            if node.op_type == "Gather" and node.domain in ("", "ai.onnx"):
                where, moved = place(node), self._advance(model.graph, node)
                count += moved if isinstance(moved, int) else self.settle(where, moved)
        return count

    def _advance(self, graph: ir.Graph, node: ir.Node) -> int | Refused:
        source, index = node.inputs[0], node.inputs[1]
        shape = dimensions(source)
        if index is None or index.const_value is None or source is None or source.const_value is not None:
            return 0
        picked = constant_array(index)
        axis = int_attribute(node, "axis", 0)
        if shape is None or len(shape) != 3 or axis % 3 != 1 or picked.shape != ():
            return 0
        if users(source) != [node] or source.is_graph_output():
            return Refused("all tokens are read elsewhere too")
        if not _commutes(_Selection(node, 1)):
            producer = source.producer()
            before = "the input of the graph" if producer is None else f"a {producer.op_type} that needs all tokens"
            return Refused(f"the tokens come from {before}")
        row = add_constant(graph, f"{source.name}{_ROW}", picked.reshape(1).astype(np.int64))
        axes = add_constant(graph, f"{source.name}.row_axis", np.array([1], np.int64))
        keep = ir.node("Gather", [source, row], {"axis": 1}, name=f"{source.name}.keep")
        squeeze = ir.node("Squeeze", [keep.outputs[0], axes], name=f"{source.name}.drop")
        graph.insert_before(node, [keep, squeeze])
        take_over(node.outputs[0], squeeze.outputs[0])
        graph.remove(node, safe=True)
        narrow = _Narrowing(graph, row)
        narrow.push(_Selection(keep, 1))
        return narrow.count


def selected_row(graph: ir.Graph) -> int | None:
    """Return the row that `SelectEarly` kept; None if it did nothing, or kept different rows."""
    rows = {
        int(constant_array(index)[0])
        for node in graph
        if node.op_type == "Gather"
        and (index := node.inputs[1]) is not None
        and index.const_value is not None
        and (index.name or "").endswith(_ROW)
    }
    return rows.pop() if len(rows) == 1 else None


class _Narrowing:
    """Moves one selection through the graph, one node at a time."""

    def __init__(self, graph: ir.Graph, row: ir.Value) -> None:
        self.graph = graph
        self.row = row
        self.count = 0

    def push(self, selection: _Selection) -> None:
        """Move ``selection`` as far to the front as it goes."""
        front = [selection]
        while front:
            current = front.pop()
            if current.gather.graph is None:
                continue  # it was merged with another one
            current = self._merge(current)
            if _commutes(current):
                front.extend(self._step(current))
                self.count += 1

    def _merge(self, selection: _Selection) -> _Selection:
        """Replace several Gathers of the same value by one."""
        for other in users(selection.value):
            if other is not selection.gather and other.op_type == "Gather" and other.inputs[1] is self.row:
                other.outputs[0].replace_all_uses_with(selection.gather.outputs[0])
                self.graph.remove(other, safe=True)
        return selection

    def _step(self, selection: _Selection) -> list[_Selection]:
        """Let the selection's producer read selected inputs; return the new selections."""
        node, axis = selection.value.producer(), selection.axis
        assert node is not None
        value = selection.value
        rank = len(dimensions(value) or ())
        made = []
        for position, source_axis in _selected_inputs(node, axis, rank).items():
            source = node.inputs[position]
            assert source is not None
            gather = ir.node("Gather", [source, self.row], {"axis": source_axis}, name=f"{value.name}.rows{position}")
            self.graph.insert_before(node, gather)
            shape = dimensions(source)
            if shape is not None:
                gather.outputs[0].shape = ir.Shape([1 if i == source_axis else d for i, d in enumerate(shape)])
            gather.outputs[0].type = source.type
            node.replace_input_with(position, gather.outputs[0])
            if source.const_value is None:
                made.append(_Selection(gather, source_axis))
        if node.op_type == "Reshape":
            target = node.inputs[1]
            assert target is not None
            wanted = constant_array(target).copy()
            wanted[axis] = 1
            node.replace_input_with(1, add_constant(self.graph, f"{value.name}.narrow", wanted))
        value.name = f"{value.name}{SELECTED}"
        shape_after = dimensions(value)
        if shape_after is not None:
            value.shape = ir.Shape([1 if i == axis else d for i, d in enumerate(shape_after)])
        selection.gather.outputs[0].replace_all_uses_with(value)
        self.graph.remove(selection.gather, safe=True)
        return made


def _commutes(selection: _Selection) -> bool:
    """Whether the producer of the selected value may read selected inputs instead."""
    value, axis = selection.value, selection.axis
    node, shape = value.producer(), dimensions(value)
    if node is None or node.domain not in ("", "ai.onnx") or shape is None or value.is_graph_output():
        return False
    if any(reader is not selection.gather for reader in users(value)) or len(node.outputs) != 1:
        return False
    last = axis == len(shape) - 1
    if node.op_type in _UNARY:
        return True
    if node.op_type in _NORMALIZATIONS or node.op_type == "Softmax":
        return not last and int_attribute(node, "axis", -1) in (-1, len(shape) - 1)
    if node.op_type in _ELEMENTWISE:
        return all(dimensions(v) is not None for v in node.inputs)
    if node.op_type == "MatMul":
        return axis == len(shape) - 2 and len(dimensions(node.inputs[0]) or ()) > 1
    if node.op_type == "Transpose":
        return node.attributes.get("perm") is not None
    return node.op_type == "Reshape" and _joins_heads(node, axis)


def _joins_heads(node: ir.Node, axis: int) -> bool:
    """Whether a Reshape keeps the dimensions up to ``axis``."""
    before, after, target = dimensions(node.inputs[0]), dimensions(node.outputs[0]), node.inputs[1]
    if before is None or after is None or target is None or target.const_value is None:
        return False
    wanted = constant_array(target).tolist()
    inferred_before = -1 in wanted[: axis + 1] or -1 not in wanted
    return same_reshaped(before, after, axis + 1) and isinstance(after[axis], int) and inferred_before


def _selected_inputs(node: ir.Node, axis: int, rank: int) -> dict[int, int]:
    """Map the position of each input that has the selected dimension to the axis there."""
    if node.op_type == "Transpose":
        return {0: int(node.attributes["perm"].as_ints()[axis])}
    if node.op_type == "MatMul":
        return {0: len(dimensions(node.inputs[0]) or ()) - 2}
    if node.op_type not in _ELEMENTWISE:
        return {0: axis}
    found = {}
    for position, value in enumerate(node.inputs):
        shape = dimensions(value) or ()
        own = axis - (rank - len(shape))
        if own >= 0 and shape[own] != 1:
            found[position] = own
    return found
