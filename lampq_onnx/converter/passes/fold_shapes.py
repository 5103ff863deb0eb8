"""Fold shape arithmetic that is known before any image is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.graph.edits import CountingPass, add_constant, place
from lampq_onnx.graph.nodes import constant_array, int_attribute
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import Dimension, dimensions

LONGEST = 16
"""Largest integer constant that is treated as a shape; those with more elements are not."""


class FoldShapes(CountingPass):
    """Replace computed target shapes of Reshape by constants.

    1. Shape, Slice, Gather, Concat, Squeeze, Unsqueeze, Identity and Cast of shapes are evaluated on the dimensions
       that the graph declares; the batch stays a symbol.
    2. A Reshape whose target has at most one symbol takes a constant, with -1 in the place of the symbol.
    3. The shape of the result is written into the graph, so that shapes computed from it are known as well. Nodes that
       nothing reads any more are removed.
    """

    purpose = "constant target shape of a Reshape"

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        graph = model.graph
        known: dict[ir.Value, tuple[Dimension, ...]] = {}
        count = 0
        for node in list(graph):
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Reshape":
                count += self.settle(place(node), self._fold(graph, node, known))
            elif node.op_type == "Transpose":
                _spread(node)
            else:
                found = _evaluate(node, known)
                if found is not None:
                    known[node.outputs[0]] = found
        if count:
            common_passes.RemoveUnusedNodesPass()(model)
            _infer(model)
        return count

    def _fold(self, graph: ir.Graph, node: ir.Node, known: dict[ir.Value, tuple[Dimension, ...]]) -> Outcome:
        shape = node.inputs[1]
        if shape is None or shape.const_value is not None:
            return False
        target = known.get(shape)
        if target is None:
            return Refused("the shape depends on values that are known only at run time")
        numbers = [d for d in target if isinstance(d, int)]
        symbols = [d for d in target if isinstance(d, str)]
        inferred = numbers.count(-1)
        if len(symbols) + inferred > 1:
            return Refused("several dimensions of the shape are known only at run time")
        # A dimension of 0 would make the -1 ambiguous, or copy the input's.
        if any(d == 0 or d < -1 for d in numbers):
            return Refused("the shape has a dimension that is 0 or negative")
        wanted = np.array([d if isinstance(d, int) else -1 for d in target], np.int64)
        node.replace_input_with(1, add_constant(graph, f"{node.outputs[0].name}.shape", wanted))
        if not inferred:
            node.outputs[0].shape = ir.Shape(target)
        return True


def _infer(model: ir.Model) -> None:
    """Infer the shapes of values computed from those that are known now."""
    for node in model.graph:
        for output in node.outputs:
            if dimensions(output) is None and not output.is_graph_output():
                output.shape = None
    common_passes.ShapeInferencePass()(model)


def _spread(node: ir.Node) -> None:
    """Give a Transpose's result the permuted shape of its input."""
    shape, perm = dimensions(node.inputs[0]), node.attributes.get("perm")
    if shape is not None and perm is not None and dimensions(node.outputs[0]) is None:
        node.outputs[0].shape = ir.Shape([shape[i] for i in perm.as_ints()])


def _evaluate(node: ir.Node, known: dict[ir.Value, tuple[Dimension, ...]]) -> tuple[Dimension, ...] | None:
    """Evaluate an integer vector, or a scalar as a vector of one element; None if it is not known."""
    if node.op_type == "Shape":
        shape = dimensions(node.inputs[0])
        return (
            None if shape is None else shape[int_attribute(node, "start", 0) : int_attribute(node, "end", len(shape))]
        )
    if node.op_type in ("Concat", "Squeeze", "Unsqueeze", "Identity", "Cast"):
        sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        parts = [_elements(value, known) for value in sources]
        return None if any(p is None for p in parts) else tuple(d for p in parts if p is not None for d in p)
    if node.op_type == "Gather":
        data, indices = _elements(node.inputs[0], known), _integers(node.inputs[1], known)
        if data is None or indices is None or any(not -len(data) <= i < len(data) for i in indices):
            return None
        return tuple(data[i] for i in indices)
    if node.op_type == "Slice":
        data = _elements(node.inputs[0], known)
        bounds = [_integers(value, known) for value in node.inputs[1:] if value is not None]
        if data is None or any(b is None or len(b) != 1 for b in bounds):
            return None
        start, end, *rest = (b[0] for b in bounds if b is not None)
        step = rest[1] if len(rest) > 1 else 1
        return data[start:end:step] if step > 0 else None
    return None


def _elements(value: ir.Value | None, known: dict[ir.Value, tuple[Dimension, ...]]) -> tuple[Dimension, ...] | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    constant = value.const_value
    if constant is None or constant.dtype not in (ir.DataType.INT64, ir.DataType.INT32) or constant.size > LONGEST:
        return None
    return tuple(int(d) for d in constant_array(value).reshape(-1))


def _integers(value: ir.Value | None, known: dict[ir.Value, tuple[Dimension, ...]]) -> Sequence[int] | None:
    elements = _elements(value, known)
    if elements is None or any(isinstance(d, str) for d in elements):
        return None
    return [d for d in elements if isinstance(d, int)]
