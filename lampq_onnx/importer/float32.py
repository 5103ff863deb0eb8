"""Converts half-precision graphs to float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.float_types import TYPE_ATTRIBUTES, change_tensors

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class ToFloat32(CountingPass):
    """Compute in float32 everything that is in float16 or bfloat16.

    1. Initializers and tensor attributes are converted, and so are the types of inputs, outputs and values.
    2. Casts to a half type become casts to float32.

    Attributes:
        count: number of converted tensors.
    """

    def apply(self, model: ir.Model) -> int:
        """Run the pass on a model."""
        count = 0
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.dtype in _HALVES:
                    value.const_value = _widened(tensor)
                    count += 1
            for value in (*graph.inputs, *graph.initializers.values()):
                _widen_type(value)
            for node in graph:
                count += _widen_node(node)
        return count


def _widen_node(node: ir.Node) -> int:
    """Widen a node's tensors and the types of its outputs; returns the number of converted tensors."""
    for value in node.outputs:
        _widen_type(value)
    for name in TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.type != ir.AttributeType.INT:
            continue
        if ir.DataType(attribute.as_int()) in _HALVES:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    return change_tensors(node, _HALVES, lambda array: array.astype(np.float32))


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(np.asarray(tensor.numpy()).astype(np.float32), name=tensor.name)


def _widen_type(value: ir.Value) -> None:
    if value.dtype in _HALVES:
        value.type = ir.TensorType(ir.DataType.FLOAT)
