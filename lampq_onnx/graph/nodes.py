"""What is read off single nodes and values of a graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.errors import LampqError

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def constant_array(value: ir.Value) -> npt.NDArray[np.generic]:
    """Return the array of an initializer."""
    if value.const_value is None:
        raise LampqError(f"the tensor {value.name} is not a constant")
    return np.asarray(value.const_value.numpy())


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def users(value: ir.Value) -> list[ir.Node]:
    """List the nodes that read ``value``."""
    return [use.node for use in value.uses()]


def is_linear(node: ir.Node) -> bool:
    """Whether a node is a MatMul, Gemm or Conv with constant weights that an activation is multiplied by."""
    if node.domain not in ("", "ai.onnx") or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or weight.const_value.dtype not in _FLOATS:
        return False
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return rank == 4 and int_attribute(node, "group", 1) == 1
    if node.op_type == "Gemm":
        return rank == 2 and not int_attribute(node, "transA", 0)
    return node.op_type == "MatMul" and rank == 2


def cuts_patches(node: ir.Node) -> bool:
    """Whether a Conv is a matrix applied to patches that do not overlap; a pointwise one is."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    kernel = [int(k) for k in weight.const_value.shape.numpy()[2:]]
    attributes = {key: list(a.as_ints()) for key, a in node.attributes.items() if a.type == ir.AttributeType.INTS}
    padded = any(attributes.get("pads", [0])) or any(d != 1 for d in attributes.get("dilations", [1]))
    return attributes.get("strides", [1, 1]) == kernel and not padded
