"""Removes the input of a detector that says which pixels are image and which are padding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import add_constant

MASK_NAMES = ("pixel_mask", "pixel_attention_mask", "mask")
"""Names of an input (n, height, width) that is 1 for pixels of the image."""

_DIMENSIONS = 3


def remove_mask_input(model: ir.Model) -> int:
    """Compute the mask inside the graph, for images without padding; returns 1 if there was one.

    Detectors of transformers take images and a mask. Images have one size here and fill it, so the mask is 1
    everywhere, once for each image.
    """
    graph = model.graph
    if len(graph.inputs) != 2:
        return 0
    masks = [value for value in graph.inputs if _is_mask(value)]
    images = [value for value in graph.inputs if value.shape is not None and len(value.shape) == _DIMENSIONS + 1]
    if len(masks) != 1 or len(images) != 1:
        return 0
    mask, image = masks[0], images[0]
    assert mask.name is not None
    assert mask.dtype is not None
    sizes = ir.node("Shape", [image], name=f"{mask.name}.sizes")
    places = add_constant(graph, f"{mask.name}.places", np.array([0, 2, 3], np.int64))
    shape = ir.node("Gather", [sizes.outputs[0], places], {"axis": 0}, name=f"{mask.name}.shape")
    one = add_constant(graph, f"{mask.name}.one", np.ones([1] * _DIMENSIONS, mask.dtype.numpy()))
    ones = ir.node("Expand", [one, shape.outputs[0]], name=f"{mask.name}.ones")
    ones.outputs[0].type, ones.outputs[0].shape = mask.type, mask.shape
    graph.insert_before(graph[0], [sizes, shape, ones])
    mask.replace_all_uses_with(ones.outputs[0], replace_graph_outputs=True)
    graph.inputs.remove(mask)
    return 1


def _is_mask(value: ir.Value) -> bool:
    return value.name in MASK_NAMES and value.shape is not None and len(value.shape) == _DIMENSIONS
