"""Writes values that follow from a file's shapes into its graph as constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch

from lampq_onnx.frontend.onnx_model.dependence import Folded
from lampq_onnx.frontend.onnx_model.graph import ShapeValues
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.nodes import int_attribute
from lampq_onnx.graph.shapes import dimensions


def freeze(model: ir.Model, folded: Folded) -> int:
    """Replace values that do not depend on the content of the images by constants.

    Integers that depend on the number of images are left to Reshape to infer, or are computed from the shape of the
    input.

    Args:
        model: the graph; changed in place.
        folded: constants and shapes that were found; see `probe.fold`.

    Returns:
        The number of nodes by which the graph got smaller.
    """
    graph = model.graph
    before = len(graph)
    values = {value.name: value for node in graph for value in node.outputs}
    # The suffix keeps names unique: the old values are still in the graph.
    for name, constant in folded.constants.items():
        if name in values:
            value = add_constant(graph, f"{name}.constant", constant.numpy())
            values[name].replace_all_uses_with(value)
    batch: ir.Value | None = None
    made: dict[tuple[bytes, bytes, tuple[int, ...]], ir.Value] = {}
    for name, shape in folded.shapes.items():
        if name not in values:
            continue
        _infer_in_reshapes(graph, values[name], shape)
        if not values[name].uses():
            continue
        if batch is None:
            node = ir.node("Shape", [graph.inputs[0]], {"start": 0, "end": 1}, name="images.count")
            graph.insert_before(graph[0], node)
            batch = node.outputs[0]
        key = (shape.start.numpy().tobytes(), shape.slope.numpy().tobytes(), tuple(shape.start.shape))
        if key not in made:
            made[key] = _computed(graph, batch, shape, f"images.shape{len(made)}")
        values[name].replace_all_uses_with(made[key])
    common_passes.RemoveUnusedNodesPass()(model)
    return before - len(graph)


def _infer_in_reshapes(graph: ir.Graph, value: ir.Value, shape: ShapeValues) -> None:
    """Let every Reshape infer the one size that follows from the number of images, so that its shape is constant."""
    moving = [i for i, slope in enumerate(shape.slope.reshape(-1).tolist()) if slope]
    readers = [use.node for use in value.uses() if use.node.op_type == "Reshape" and use.idx == 1]
    sizes = _vector(shape.start)
    others = [size for i, size in enumerate(sizes) if i not in moving]
    if len(moving) != 1 or 0 in others:
        return
    copied = moving == [0] and sizes[0] == 0  # the first dimension counts images in the input and in the result
    if -1 not in others:
        sizes[moving[0]] = -1
    elif not copied:
        return
    constant = add_constant(graph, f"{value.name}.sizes", sizes)
    for node in readers:
        if -1 not in others or (
            not int_attribute(node, "allowzero", 0) and _keeps_first(graph, node, shape.slope.reshape(-1).tolist()[0])
        ):
            node.replace_input_with(1, constant)


def _keeps_first(graph: ir.Graph, reshape: ir.Node, per_image: int) -> bool:
    """Whether a Reshape reads and writes one row for each image, and not one for each window or head of it."""
    read = dimensions(reshape.inputs[0])
    images = dimensions(graph.inputs[0])
    if per_image != 1 or not read or not images:
        return False
    return read[0] == images[0]


def _computed(graph: ir.Graph, batch: ir.Value, shape: ShapeValues, name: str) -> ir.Value:
    """Add nodes that compute start + slope * batch."""
    start, slope = (_vector(value) for value in (shape.start, shape.slope))
    nodes = [ir.node("Mul", [batch, add_constant(graph, f"{name}.slope", slope)], name=f"{name}.product")]
    if start.any():
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], add_constant(graph, f"{name}.start", start)], name=name))
    if shape.start.dim() != 1:
        form = add_constant(graph, f"{name}.form", np.array(shape.start.shape, np.int64))
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], form], name=f"{name}.reshaped"))
    producer = batch.producer()
    assert producer is not None
    graph.insert_after(producer, nodes)
    return nodes[-1].outputs[0]


def _vector(value: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(value.reshape(-1).numpy(), np.int64)
