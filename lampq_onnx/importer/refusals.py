"""Refuses files that cannot be used, and says why and what to do."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import place

LEAST_OPSET = 7
"""The oldest opset of a file; graphs of opsets below 13 are converted."""

MOST_OPSET = 23
"""The newest opset whose operators are supported."""

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_FEWEST_PIXELS = 4
"""If the last dimension is at most this large, it counts channels and is not a width."""

_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.UINT8)
"""Types of images."""


def require_opset(model: ir.Model, path: Path) -> None:
    """Check that the opset is 7 to 23.

    Raises:
        LampqError: it is not.
    """
    opset = model.opset_imports.get("", 0)
    if not LEAST_OPSET <= opset <= MOST_OPSET:
        raise LampqError(
            f"{path} has opset {opset}, and {LEAST_OPSET} to {MOST_OPSET} are supported",
            hint="export it with another opset, or convert it with onnx.version_converter",
        )


def require_no_control_flow(model: ir.Model, path: Path) -> None:
    """Check that no branches or loops remain after constants are folded.

    Raises:
        LampqError: names the first one.
    """
    for node in model.graph.all_nodes():
        if node.op_type in _CONTROL_FLOW:
            raise LampqError(
                f"{path} branches or loops at run time: node {place(node)} is a {node.op_type}, whose layers are not "
                "the same for every image",
                hint="export the model with torch.onnx.export(dynamo=True), or by tracing, which leaves one path",
            )


def image_input(model: ir.Model, path: Path) -> ir.Value:
    """The only input of the model: float images or uint8 pixels, with channels first or last.

    Raises:
        LampqError: the model has other inputs.
    """
    inputs = list(model.graph.inputs)
    described = ", ".join(f"{v.name} {_shape(v)}" for v in inputs)
    if len(inputs) != 1:
        raise LampqError(
            f"{path} takes {len(inputs)} inputs ({described}), and only models of one batch of images are supported",
            hint="export it with the other inputs fixed to constants",
        )
    value = inputs[0]
    if value.shape is None or len(value.shape) != 4 or value.dtype not in _TYPES:
        kind = "unknown type" if value.dtype is None else value.dtype.name
        raise LampqError(
            f"{path} takes {described} of {kind}, not a batch of images (n, channels, height, width) in float or uint8",
            hint="only image models are supported",
        )
    return value


def channels_last(value: ir.Value) -> bool:
    """Whether images are (n, height, width, channels): only their last axis is too short for a side of an image."""
    shape = value.shape
    if shape is None or len(shape) != 4:
        return False
    second, last = shape[1], shape[3]
    return isinstance(last, int) and last <= _FEWEST_PIXELS and not (isinstance(second, int) and second <= last)


def _shape(value: ir.Value) -> list[int | str]:
    return [] if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]
