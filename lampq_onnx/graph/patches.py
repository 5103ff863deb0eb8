"""Recognize convolutions that cut an image into patches."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.graph.layers import GraphLayer
from lampq_onnx.graph.nodes import cuts_patches

OVERLAPPING = "its patches overlap, are padded, or do not cover the image"
"""Why a convolution stays in float: it is not a matrix product, and has no integer kernel with float outputs."""


def overlaps(layer: GraphLayer) -> bool:
    """Whether a layer is a convolution that is not a matrix product, see `OVERLAPPING`."""
    return layer.node.op_type == "Conv" and (layer.type == "conv" or patch_geometry(layer.node) is None)


def patch_geometry(node: ir.Node) -> tuple[int, int, int, int, int] | None:
    """Return (channels, rows, columns, kernel height, kernel width) of a Conv that cuts its input into whole patches.

    None if the Conv is of another kind: overlapping, padded, dilated, grouped, or of unknown input size.
    """
    weight, source = node.inputs[1], node.inputs[0]
    if weight is None or weight.const_value is None or source is None or source.shape is None:
        return None
    kernel = [int(k) for k in weight.const_value.shape.numpy()[2:]]
    size = source.shape[2:] if len(source.shape) == 4 else ()
    sides = [d for d in size if isinstance(d, int)]
    if len(sides) != 2 or not cuts_patches(node):
        return None
    height, width = sides
    if height % kernel[0] or width % kernel[1]:
        return None
    channels = int(weight.const_value.shape.numpy()[1])
    return channels, height // kernel[0], width // kernel[1], kernel[0], kernel[1]
