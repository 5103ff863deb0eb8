"""Rewrites linear layers in unusual forms as MatMul with a matrix and Add with a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.bias import output_channels
from lampq_onnx.graph.edits import CountingPass, add_constant, place, take_over
from lampq_onnx.graph.layers import GraphLayer, find_layers
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome, Refused

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

    purpose = "plain form of a linear layer"

    def apply(self, model: ir.Model) -> int:
        """Run the pass; shapes must have been inferred."""
        graph = model.graph
        products = [node for node in graph if node.op_type == "Einsum"]
        count = sum(self.settle(place(node), _plain_einsum(graph, node)) for node in products)
        return count + sum(self.settle(layer.name, _plain_bias(graph, layer)) for layer in find_layers(graph))


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


def contraction(activation: str, weight: str, result: str) -> Contraction | Refused:
    """Read an Einsum with weights as a product of matrices, or say why it is not one.

    >>> contraction("bqhd", "hde", "bqe")
    Contraction(lead='bq', summed='hd', made='e')
    >>> contraction("bqd", "bde", "bqe").reason  # other weights for every image
    'its result keeps a dimension that activations and weights share'
    """
    summed = "".join(letter for letter in activation if letter in weight)
    made = "".join(letter for letter in weight if letter not in activation)
    lead = activation.removesuffix(summed)
    if ELLIPSIS in weight:
        return Refused("its weights have dimensions without a letter (...)")
    if any(len(set(term)) != len(term) for term in (activation, weight)):
        return Refused("it takes a diagonal: one operand has a letter twice")
    if not summed or not made:
        return Refused("activations and weights share no dimension, or the weights have no other dimension")
    if set(summed) & set(result):
        return Refused("its result keeps a dimension that activations and weights share")
    # The new dimensions follow the order of the result.
    made = "".join(letter for letter in result if letter in made)
    if lead + summed != activation:
        return Refused("the dimensions that it sums over are not the last ones of the activations")
    if len(summed) + len(made) != len(weight):
        return Refused("it sums over a dimension that only the weights have")
    if lead + made != result:
        return Refused("its result is not the other dimensions of the activations, then those of the weights")
    return Contraction(lead, summed, made)


def _plain_einsum(graph: ir.Graph, node: ir.Node) -> Outcome:
    terms, arrow, result = (
        node.attributes["equation"].as_string().replace(" ", "").replace("...", ELLIPSIS).partition("->")
    )
    operands = list(zip(terms.split(","), node.inputs, strict=False))
    if not any(value is not None and value.const_value is not None for _, value in operands):
        return False  # a product of activations
    if len(operands) != 2:
        return Refused(f"it has {len(operands)} operands, and a layer has 2")
    if not arrow:
        return Refused("its equation does not name the dimensions of the result (->)")
    if operands[0][1] is not None and operands[0][1].const_value is not None:
        operands.reverse()
    (activation, source), (letters, weight) = operands
    if source is None or weight is None or weight.const_value is None or source.const_value is not None:
        return False
    product = contraction(activation, letters, result)
    if isinstance(product, Refused):
        return product
    if ELLIPSIS in product.lead and len(product.summed + product.made) > 2:
        return Refused("its activations have dimensions without a letter (...), and a Reshape must know their number")
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


def _plain_bias(graph: ir.Graph, layer: GraphLayer) -> Outcome:
    added = layer.added
    if layer.node.op_type != "MatMul":
        return False
    if added is None:
        return _widening(graph, layer.node)
    array = constant_array(added.value)
    if array.ndim < 2:
        return False
    if array.size != len(layer.matrix()):
        return Refused("its bias is one number for all outputs")
    vector = _changed(graph, added.value, array.reshape(-1), added.node.outputs[0].name)
    added.node.replace_input_with(added.position, vector)
    return True


def _widening(graph: ir.Graph, product: ir.Node) -> Outcome:
    """Refuse a row that is added in more dimensions than the product has; other constants are no bias at all."""
    add = only_reader(product.outputs[0], graph)
    constants = (
        [] if add is None or add.op_type != "Add" else [v for v in add.inputs if v is not None and v.const_value]
    )
    shapes = [tuple(value.const_value.shape.numpy()) for value in constants if value.const_value is not None]
    if any(len(shape) > 1 and math.prod(shape) == shape[-1] == output_channels(product) for shape in shapes):
        return Refused("its bias has more dimensions than its product, and so makes the result larger")
    return False


def _changed(graph: ir.Graph, constant: ir.Value, array: npt.NDArray[np.generic], reader: str | None) -> ir.Value:
    """The constant with another array, under its own name unless other nodes read it too."""
    if len(constant.uses()) > 1 or constant.is_graph_output():
        return add_constant(graph, f"{constant.name}.{reader}", array)
    constant.const_value = ir.tensor(array, name=constant.name)
    constant.shape = ir.Shape(array.shape)
    return constant
