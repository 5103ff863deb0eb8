"""Adds what LoRA trained to the weights of its layers, where an exporter left it beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import CountingPass, add_constant, place, take_over, unused
from lampq_onnx.graph.nodes import constant_array, int_attribute, is_linear
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome
from lampq_onnx.graph.shapes import dimensions


@dataclass(frozen=True)
class _Path:
    """Products with constants, one after the other, and factors between them.

    Attributes:
        source: what the first product reads.
        matrix: all of them as one, (inputs, outputs) float64.
        products: the products, the last one first.
        nodes: all nodes, the last one first.
    """

    source: ir.Value
    matrix: npt.NDArray[np.float64]
    products: tuple[ir.Node, ...]
    nodes: tuple[ir.Node, ...]


class MergeLowRank(CountingPass):
    """Add a product of two matrices beside a layer to the layer's weights.

    1. x W + s (x A) B -> x (W + s A B), as in LoRA; the bias of the layer may be added before or after.
    2. Nothing but the layer may read what lies between.

    Attributes:
        count: number of layers whose weights changed.
    """

    purpose = "weights of LoRA in the layers' own"

    def apply(self, model: ir.Model) -> int:
        """Run the pass on a model."""
        adds = [node for node in model.graph if node.op_type == "Add" and node.domain in ("", "ai.onnx")]
        return sum(self.settle(place(add), _merge(model.graph, add)) for add in adds)


def _merge(graph: ir.Graph, add: ir.Node) -> Outcome:
    for beside, kept in ((0, 1), (1, 0)):
        own, other = add.inputs[kept], _path(graph, add.inputs[beside])
        if own is None or other is None or len(other.products) < 2 or only_reader(own, graph) is not add:
            continue
        layer = _layer(own)
        if layer is None or layer.inputs[0] is not other.source:
            continue
        _add_weights(graph, layer, other.matrix)
        take_over(add.outputs[0], own)
        graph.remove([add, *other.nodes], safe=True)
        return True
    return False


def _layer(value: ir.Value) -> ir.Node | None:
    """The product that computes a value, with a bias or without."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for operand in node.inputs:
            product = operand.producer() if operand is not None else None
            if product is not None and _is_product(product) and (found := bias_of(product)) and found.add is node:
                return product
    return node if node is not None and _is_product(node) else None


def _path(graph: ir.Graph, value: ir.Value | None) -> _Path | None:
    """The products and factors that a value comes from, back to what more than the next of them reads."""
    factor, matrix = 1.0, None
    products: list[ir.Node] = []
    nodes: list[ir.Node] = []
    while value is not None and (node := value.producer()) is not None:
        if only_reader(value, graph) is None:
            break
        if _is_product(node) and len(node.inputs) == 2:
            own = _matrix(node)
            matrix = own if matrix is None else own @ matrix
            products.append(node)
        elif (scale := _factor(node)) is not None:
            factor *= scale
        else:
            break
        nodes.append(node)
        value = node.inputs[0]
    return None if matrix is None or value is None else _Path(value, factor * matrix, tuple(products), tuple(nodes))


def _factor(node: ir.Node) -> float | None:
    """What a Mul or Div multiplies its first operand with, if that is one constant number and the shape stays."""
    second = node.inputs[1] if node.op_type in ("Mul", "Div") else None
    if second is None or second.const_value is None or second.const_value.size != 1:
        return None
    rank = len(second.const_value.shape)
    first = dimensions(node.inputs[0])
    if rank > (1 if first is None else len(first)):
        return None  # the result would have more dimensions
    number = float(constant_array(second).reshape(-1)[0])
    if node.op_type == "Mul":
        return number
    return 1 / number if number else None


def _is_product(node: ir.Node) -> bool:
    """Whether a node is x W alone, or with a bias as a third input."""
    plain = all(node.attributes[k].as_float() == 1.0 for k in ("alpha", "beta") if k in node.attributes)
    return node.op_type in ("MatMul", "Gemm") and is_linear(node) and plain


def _matrix(product: ir.Node) -> npt.NDArray[np.float64]:
    """Return the weights of a product, float64 (inputs, outputs), whichever way the file has them."""
    weight = product.inputs[1]
    assert weight is not None
    array = constant_array(weight).astype(np.float64)
    return array.T if int_attribute(product, "transB", 0) else array


def _add_weights(graph: ir.Graph, layer: ir.Node, change: npt.NDArray[np.float64]) -> None:
    weight = layer.inputs[1]
    assert weight is not None
    whole = _matrix(layer) + change
    array = np.ascontiguousarray(whole.T if int_attribute(layer, "transB", 0) else whole).astype(np.float32)
    if len(weight.uses()) == 1 and not weight.is_graph_output():
        weight.const_value = ir.tensor(array, name=weight.name)
        return
    name = unused(f"{weight.name}.merged", set(graph.initializers))
    layer.replace_input_with(1, add_constant(graph, name, array))
