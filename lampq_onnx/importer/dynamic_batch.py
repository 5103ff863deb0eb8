"""Makes graphs for a fixed number of images accept any number."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, place
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.refusals import Outcome, Refused

BATCH = "batch"

_BROADCAST = frozenset({"MatMul", "Add", "Sub", "Mul", "Div", "Where"})
"""Operators that repeat a first dimension of 1 as often as their other inputs need it."""


class DynamicBatch(CountingPass):
    """Give a graph with a fixed batch dimension a symbolic one.

    1. A Reshape to a constant shape keeps the batch dimension of its input, or computes it.
    2. Constants with one copy of a row per image (class tokens) are expanded to the actual number of images.
    3. Such constants that an operator repeats by itself (queries of a pooling head) keep one copy.

    The result is a guess until its outputs have been compared with the file's.

    Attributes:
        count: number of changed nodes.
        fixed: batch size of the file; None if it was not fixed.
    """

    purpose = "any number of images at once"
    fixed: int | None = None

    def apply(self, model: ir.Model) -> int:
        """Run the pass; shapes must have been inferred."""
        count, self.fixed = 0, None
        graph = model.graph
        image = graph.inputs[0]
        size = image.shape[0] if image.shape is not None else None
        if not isinstance(size, int) or image.shape is None:
            return 0
        self.fixed = size
        batch: ir.Value | None = None
        for node in list(graph):
            if node.op_type == "Reshape":
                count += self.settle(place(node), _reshape(graph, node, size))
            elif node.op_type == "Expand" or (node.op_type == "Concat" and _joins_rows(node)):
                if batch is None:
                    shape = ir.node("Shape", [image], {"start": 0, "end": 1}, name="images")
                    graph.insert_before(graph[0], shape)
                    batch = shape.outputs[0]
                repeat = _free_expand if node.op_type == "Expand" else _expand_rows
                count += self.settle(place(node), repeat(graph, node, batch, size))
            elif size > 1 and node.op_type in _BROADCAST:
                count += _one_row(graph, node, size)
        image.shape = ir.Shape([BATCH, *image.shape[1:]])
        inputs = set(graph.initializers.values()) | {image}
        for node in graph:
            for value in node.outputs:
                if value not in inputs:
                    value.shape = None  # shapes are inferred again afterwards
        return count


def _one_row(graph: ir.Graph, node: ir.Node, size: int) -> bool:
    """Keep one of equal rows of a constant, one per image, beside a computed value of as many dimensions."""
    shapes = [v.shape for v in node.inputs if v is not None and v.const_value is None and v.shape is not None]
    # An exporter may leave it open that the first dimension is that of the images.
    ranks = [len(shape) for shape in shapes if len(shape) and (shape[0] == size or not isinstance(shape[0], int))]
    changed = False
    for position, value in enumerate(node.inputs):
        if value is None or value.const_value is None:
            continue
        array = constant_array(value)
        least = 3 if node.op_type == "MatMul" else 2  # the rows of a matrix are not images
        if array.ndim < least or array.ndim not in ranks or array.shape[0] != size or (array != array[:1]).any():
            continue
        name = f"{node.outputs[0].name}.{position}.row"
        node.replace_input_with(position, add_constant(graph, name, np.ascontiguousarray(array[:1])))
        changed = True
    return changed


def _reshape(graph: ir.Graph, node: ir.Node, size: int) -> Outcome:
    source, shape = node.inputs[0], node.inputs[1]
    if source is None or shape is None or shape.const_value is None or source.const_value is not None:
        return False
    wanted = [int(v) for v in constant_array(shape)]
    before = [] if source.shape is None else list(source.shape)
    if before and wanted and before[0] == size and wanted[0] == size:
        wanted[0] = 0
    elif size in wanted and -1 not in wanted:
        wanted[wanted.index(size)] = -1
    elif -1 not in wanted and wanted and wanted[0] % size == 0:
        wanted[0] = -1  # windows or tokens of all images in one dimension
    elif -1 in wanted and wanted[0] > 0:
        return Refused("the first dimension of its result is fixed, and another one follows from the rest (-1)")
    elif -1 not in wanted and wanted:
        return Refused(f"the first dimension of its result, {wanted[0]}, is no multiple of the {size} images")
    else:
        return False
    if 0 in wanted and "allowzero" in node.attributes:
        del node.attributes["allowzero"]
    node.replace_input_with(1, add_constant(graph, f"{node.outputs[0].name}.shape", np.array(wanted, np.int64)))
    return True


def _joins_rows(node: ir.Node) -> bool:
    """Whether a constant with one row per image is concatenated to computed values along another axis."""
    axis = node.attributes["axis"].as_int()
    ranks = [len(v.const_value.shape) for v in node.inputs if v is not None and v.const_value is not None]
    computed = any(v is not None and v.const_value is None for v in node.inputs)
    return computed and any(axis % rank != 0 for rank in ranks if rank > 1)


def _free_expand(graph: ir.Graph, node: ir.Node, batch: ir.Value, size: int) -> Outcome:
    """Let an Expand of a constant, with one copy per image, follow the actual number of images."""
    value, shape = node.inputs
    if value is None or shape is None or shape.const_value is None:
        return False
    wanted = constant_array(shape)
    if wanted.size < 2 or wanted[0] != size:
        return False
    if value.const_value is None:
        if size == 1:
            return False  # a first dimension of 1 fits any number of images
        if _reads_images(value, graph.inputs[0]):
            return Refused(f"it repeats a computed value for {size} images")
    rest = add_constant(graph, f"{node.outputs[0].name}.rest", np.asarray(wanted[1:], np.int64))
    joined = ir.node("Concat", [batch, rest], {"axis": 0}, name=f"{node.outputs[0].name}.shape")
    graph.insert_before(node, joined)
    node.replace_input_with(1, joined.outputs[0])
    return True


def _reads_images(value: ir.Value, image: ir.Value) -> bool:
    """Whether a value depends on the images."""
    left, seen = [value], {value}
    while left:
        one = left.pop()
        if one is image:
            return True
        node = one.producer()
        inputs = [] if node is None else [v for v in node.inputs if v is not None and v not in seen]
        seen.update(inputs)
        left += inputs
    return False


def _expand_rows(graph: ir.Graph, node: ir.Node, batch: ir.Value, size: int) -> Outcome:
    """Expand constants that hold one copy per image to the actual number of images."""
    changed, refused = False, None
    for position, value in enumerate(node.inputs):
        if value is None or value.const_value is None:
            continue
        array = constant_array(value)
        if array.ndim < 2 or array.shape[0] != size:
            continue
        if (array != array[:1]).any():
            refused = Refused(f"its constant is not the same for each of the {size} images")
            continue
        name = f"{node.outputs[0].name}.{position}"
        row = add_constant(graph, f"{name}.row", np.ascontiguousarray(array[:1]))
        rest = add_constant(graph, f"{name}.rest", np.array(array.shape[1:], np.int64))
        shape = ir.node("Concat", [batch, rest], {"axis": 0}, name=f"{name}.shape")
        expand = ir.node("Expand", [row, shape.outputs[0]], name=f"{name}.expand")
        graph.insert_before(node, [shape, expand])
        node.replace_input_with(position, expand.outputs[0])
        changed = True
    return refused or changed
