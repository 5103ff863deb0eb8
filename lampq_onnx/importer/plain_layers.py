"""Rewrites linear layers in unusual forms as MatMul with a matrix and Add with a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, take_over
from lampq_onnx.graph.layers import GraphLayer, find_layers
from lampq_onnx.graph.nodes import constant_array

ELLIPSIS = "."
"""Stands for ``...`` in a term of an Einsum."""


class PlainLayers(CountingPass):
    """Bring linear layers into the form that the other stages know.

    1. An Einsum of activations and constant weights becomes a MatMul. It stands between Reshapes if it sums over
       several dimensions or creates several.
    2. A bias of shape (1, ..., 1, n) becomes one of shape (n,).

    Attributes:
        count: number of changed layers.
    """

    def apply(self, model: ir.Model) -> int:
        """Run the pass; shapes must have been inferred."""
        graph = model.graph
        count = sum(_plain_einsum(graph, node) for node in list(graph) if node.op_type == "Einsum")
        return count + sum(_plain_bias(graph, layer) for layer in find_layers(graph))


@dataclass(frozen=True)
class Contraction:
    """Letters of an Einsum of activations (lead, summed) and weights (summed, made) to a result (lead, made).

    Attributes:
        lead: dimensions that only the activations have.
        summed: dimensions that are summed over.
        made: dimensions that only the weights have.
    """

    lead: str
    summed: str
    made: str


def contraction(activation: str, weight: str, result: str) -> Contraction | None:
    """Read an Einsum with weights as a product of matrices; None if it is not one.

    >>> contraction("bqhd", "hde", "bqe")
    Contraction(lead='bq', summed='hd', made='e')
    >>> contraction("bqd", "bde", "bqe") is None  # other weights for every image
    True
    """
    summed = "".join(letter for letter in activation if letter in weight)
    made = "".join(letter for letter in weight if letter not in activation)
    lead = activation.removesuffix(summed)
    if not summed or not made or ELLIPSIS in weight or set(summed) & set(result):
        return None
    if any(len(set(term)) != len(term) for term in (activation, weight)):
        return None
    # The new dimensions follow the order of the result.
    made = "".join(letter for letter in result if letter in made)
    if lead + summed != activation or lead + made != result or len(summed) + len(made) != len(weight):
        return None
    return Contraction(lead, summed, made)


def _plain_einsum(graph: ir.Graph, node: ir.Node) -> bool:
    terms, arrow, result = (
        node.attributes["equation"].as_string().replace(" ", "").replace("...", ELLIPSIS).partition("->")
    )
    operands = list(zip(terms.split(","), node.inputs, strict=False))
    if not arrow or len(operands) != 2:
        return False
    if operands[0][1] is not None and operands[0][1].const_value is not None:
        operands.reverse()
    (activation, source), (letters, weight) = operands
    if source is None or weight is None or weight.const_value is None or source.const_value is not None:
        return False
    product = contraction(activation, letters, result)
    if product is None or (ELLIPSIS in product.lead and len(product.summed + product.made) > 2):
        return False
    name = node.outputs[0].name
    array = constant_array(weight).transpose([letters.index(letter) for letter in product.summed + product.made])
    inner, outer = array.shape[: len(product.summed)], array.shape[len(product.summed) :]
    matrix = np.ascontiguousarray(array.reshape(math.prod(inner), math.prod(outer)))
    lead = [0] * len(product.lead)  # 0 copies the dimension from the input
    nodes: list[ir.Node] = []
    if len(inner) > 1:
        shape = add_constant(graph, f"{name}.rows", np.array([*lead, len(matrix)], np.int64))
        nodes.append(ir.node("Reshape", [source, shape], name=f"{name}.flat"))
    value = nodes[-1].outputs[0] if nodes else source
    nodes.append(ir.node("MatMul", [value, _changed(graph, weight, matrix, name)], name=node.name))
    nodes[-1].metadata_props.update(node.metadata_props)
    if len(outer) > 1:
        shape = add_constant(graph, f"{name}.sizes", np.array([*lead, *outer], np.int64))
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], shape], name=f"{name}.parts"))
    graph.insert_before(node, nodes)
    take_over(node.outputs[0], nodes[-1].outputs[0])
    graph.remove(node, safe=True)
    return True


def _plain_bias(graph: ir.Graph, layer: GraphLayer) -> bool:
    added = layer.added
    if layer.node.op_type != "MatMul" or added is None:
        return False
    array = constant_array(added.value)
    if array.ndim < 2 or array.size != len(layer.matrix()):
        return False
    vector = _changed(graph, added.value, array.reshape(-1), added.node.outputs[0].name)
    added.node.replace_input_with(added.position, vector)
    return True


def _changed(graph: ir.Graph, constant: ir.Value, array: npt.NDArray[np.generic], reader: str | None) -> ir.Value:
    """The constant with another array, under its own name unless other nodes read it too."""
    if len(constant.uses()) > 1 or constant.is_graph_output():
        return add_constant(graph, f"{constant.name}.{reader}", array)
    constant.const_value = ir.tensor(array, name=constant.name)
    constant.shape = ir.Shape(array.shape)
    return constant
