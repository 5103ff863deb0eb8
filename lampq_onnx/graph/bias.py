"""The bias of a linear layer: which constant it is, and which node adds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.readers import only_reader


@dataclass(frozen=True)
class Bias:
    """A constant that is added to every row of a layer's result.

    Attributes:
        value: the constant: one number per output channel, or one for all; in one or more dimensions.
        node: the node that adds it: the Add after a MatMul, or the Gemm or Conv itself.
        position: index of the constant among the inputs of ``node``.
    """

    value: ir.Value
    node: ir.Node
    position: int

    @property
    def add(self) -> ir.Node | None:
        """The Add after a MatMul; None for Gemm and Conv."""
        return self.node if self.node.op_type == "Add" else None

    def vector(self, outputs: int) -> npt.NDArray[np.float32]:
        """Return what is added to each output channel, (outputs,) float32, with the beta of a Gemm applied."""
        row = constant_array(self.value).astype(np.float32).reshape(-1)
        if "beta" in self.node.attributes:
            row = row * np.float32(self.node.attributes["beta"].as_float())
        return np.array(np.broadcast_to(row, (outputs,)))


def bias_of(node: ir.Node, outputs: int | None = None) -> Bias | None:
    """Find the bias of a MatMul, Gemm or Conv.

    1. The bias of Gemm and Conv is their third input. The bias of a MatMul is what the Add after it adds, on either
       side. The Add must be the only reader of the product, and the product must not be an output of the graph:
       otherwise the product is used without the bias. A QuantizeLinear and a DequantizeLinear may stand between.
    2. The constant holds one number per output channel, along the last axis, or one number for all. A column or a
       matrix differs from row to row, and is not a bias.
    3. It has no more dimensions than the product, so that the result has the shape of the product.

    Args:
        node: the layer's product.
        outputs: number of output channels; None: read it from the weight, if the graph says it.

    Returns:
        None if the layer has no such bias. A constant may be the bias of several layers.
    """
    channels = output_channels(node) if outputs is None else outputs
    if node.op_type in ("Gemm", "Conv"):
        third = node.inputs[2] if len(node.inputs) > 2 else None
        return Bias(third, node, 2) if third is not None and _is_row(third, channels) else None
    product = result_of(node)
    add = only_reader(product, node.graph) if isinstance(node.graph, ir.Graph) else None
    if add is None or add.op_type != "Add":
        return None
    return next((bias for bias in _rows_of(add, product, channels)), None)


def result_of(node: ir.Node) -> ir.Value:
    """Return the result of a product in float: behind QuantizeLinear and DequantizeLinear, if it has them."""
    value = node.outputs[0]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        reader = only_reader(value, node.graph) if isinstance(node.graph, ir.Graph) else None
        if reader is None or reader.op_type != kind:
            return node.outputs[0]
        value = reader.outputs[0]
    return value


def shares_addend(node: ir.Node, outputs: int | None = None) -> bool:
    """Whether a row is added to a MatMul's result that others read too, so that it is not the layer's bias."""
    product = node.outputs[0]
    channels = output_channels(node) if outputs is None else outputs
    if len(product.uses()) == 1 and not product.is_graph_output():
        return False
    adds = [use.node for use in product.uses() if use.node.op_type == "Add"]
    return any(_rows_of(add, product, channels) for add in adds)


def output_channels(node: ir.Node) -> int | None:
    """Return the number of output channels from the shape of the weight or the result; None if it has neither."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None:
        return None
    shape = weight.shape if weight.const_value is None else weight.const_value.shape
    if shape is not None and len(shape) >= 2:
        rows_first = node.op_type == "Conv" or (
            node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int() != 0
        )
        size = shape[0 if rows_first else len(shape) - 1]
        if isinstance(size, int):
            return size
    result = node.outputs[0].shape
    if result is None or not len(result):
        return None
    size = result[1 if node.op_type == "Conv" and len(result) > 1 else len(result) - 1]
    return size if isinstance(size, int) else None


def _rows_of(add: ir.Node, product: ir.Value, outputs: int | None) -> list[Bias]:
    """List the constants that an Add adds to every row of a product."""
    rank = _rank(product)
    return [
        Bias(value, add, position)
        for position, value in enumerate(add.inputs)
        if value is not None and value is not product and _is_row(value, outputs) and constant_array(value).ndim <= rank
    ]


def _is_row(value: ir.Value, outputs: int | None) -> bool:
    """Whether ``value`` is a constant that is the same for every row."""
    if value.const_value is None:
        return False
    shape = tuple(value.const_value.shape.numpy())
    size = math.prod(shape)
    return size == 1 or (bool(shape) and size == shape[-1] and outputs in (None, size))


_KEEP_RANK = frozenset({"MatMul", "QuantizeLinear", "DequantizeLinear"})


def _rank(product: ir.Value) -> int:
    """Return the number of dimensions of a MatMul's result; 2 if unknown, the least that a batch of rows has."""
    value: ir.Value | None = product
    while value is not None:
        if value.shape is not None:
            return len(value.shape)
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type in _KEEP_RANK else None
    return 2
