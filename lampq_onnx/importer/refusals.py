"""Refuses files that cannot be used, and says why and what to do."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import place

LEAST_OPSET = 13

MOST_OPSET = 23
"""The newest opset whose operators are supported."""

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_FEWEST_PIXELS = 4
"""If the last dimension is at most this large, it counts channels and is not a width."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def require_opset(model: ir.Model, path: Path) -> None:
    """Check that the opset is 13 to 23.

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
    """The only input of the model: float images (n, channels, height, width).

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
    if value.shape is None or len(value.shape) != 4 or value.dtype not in _FLOATS:
        kind = "unknown type" if value.dtype is None else value.dtype.name
        raise LampqError(
            f"{path} takes {described} of {kind}, not a batch of images (n, channels, height, width) in float",
            hint="only image models are supported",
        )
    channels, last = value.shape[1], value.shape[3]
    if isinstance(channels, int) and isinstance(last, int) and last <= _FEWEST_PIXELS < channels:
        raise LampqError(
            f"{path} takes {described}: images seem to have their {last} channels last",
            hint="export it with channels first: (n, channels, height, width)",
        )
    return value


def _shape(value: ir.Value) -> list[int | str]:
    return [] if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]
