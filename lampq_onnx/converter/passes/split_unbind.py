"""Use one Split if a tensor is taken apart along a dimension."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, take_over
from lampq_onnx.graph.nodes import constant_array, int_attribute, users
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import dimensions

MIN_OPSET = 13
"""First opset whose Split and Squeeze take their numbers as inputs."""


class SplitUnbind(CountingPass):
    """Take the parts of an unbind (queries, keys and values) from one Split.

    1. A value whose readers are exactly the Gathers of every single index of one axis, or Slices of one element each
       with a Squeeze after them, is split once along that axis. Every part is squeezed, which copies nothing.
    """

    purpose = "one Split instead of a Slice or Gather for each part"

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if model.graph.opset_imports.get("", 0) < MIN_OPSET:
            return self.settle("", Refused(f"it needs opset {MIN_OPSET}"))
        return sum(
            self.settle(value.name or "", self._split(model.graph, value))
            for value in [output for node in model.graph for output in node.outputs]
        )

    def _split(self, graph: ir.Graph, value: ir.Value) -> Outcome:
        readers = users(value)
        picks = [_pick(reader, value) for reader in readers]
        taken = [pick for pick in picks if pick is not None]
        if len(taken) < 2:
            return False
        shape = dimensions(value)
        if shape is None:
            return Refused("its shape is not known")
        axis = taken[0][0] % len(shape)
        size = shape[axis]
        if len(taken) < len(picks) or value.is_graph_output():
            return Refused("something else reads the whole tensor too")
        if any(pick[0] % len(shape) != axis for pick in taken):
            return Refused("its parts lie along several axes")
        if not isinstance(size, int):
            return Refused("the number of parts is known only at run time")
        results = {pick[1] % size: pick[2] for pick in taken}
        if sorted(results) != list(range(size)) or len(taken) != size:
            return Refused("not every part is read exactly once")
        name = value.name or "unbind"
        sizes = add_constant(graph, f"{name}.sizes", np.ones(size, np.int64))
        axes = add_constant(graph, f"{name}.axis", np.array([axis], np.int64))
        split = ir.node("Split", [value, sizes], {"axis": axis}, num_outputs=size, name=f"{name}.split")
        squeezes = [
            ir.node("Squeeze", [output, axes], name=f"{name}.part{position}")
            for position, output in enumerate(split.outputs)
        ]
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, [split, *squeezes])
        for position, result in results.items():
            take_over(result, squeezes[position].outputs[0])
        for reader in readers:
            behind = users(reader.outputs[0])
            graph.remove([*behind, reader], safe=True)
        return True


def _pick(node: ir.Node, value: ir.Value) -> tuple[int, int, ir.Value] | None:
    """Return axis, index and result of a node (and the Squeeze after it) that takes one element of an axis."""
    if node.inputs[0] is not value:
        return None
    if node.op_type == "Gather":
        index = _numbers(node.inputs[1])
        if index is None or index.ndim != 0:
            return None
        return int_attribute(node, "axis", 0), int(index), node.outputs[0]
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    bounds = [_numbers(v) for v in node.inputs[1:]]
    if any(b is None or b.size != 1 for b in bounds):
        return None
    start, end, axis, *step = (int(b.reshape(-1)[0]) for b in bounds if b is not None)
    behind = users(node.outputs[0])
    if end - start != 1 or step not in ([], [1]) or len(behind) != 1 or behind[0].op_type != "Squeeze":
        return None
    squeezed = _numbers(behind[0].inputs[1]) if len(behind[0].inputs) > 1 else None
    if squeezed is None or squeezed.reshape(-1).tolist() != [axis] or node.outputs[0].is_graph_output():
        return None
    return axis, start, behind[0].outputs[0]


def _numbers(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    return None if value is None or value.const_value is None else constant_array(value)
