"""Merges separate query, key and value layers of one attention into one layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, take_over, unused
from lampq_onnx.graph.layers import GraphLayer, find_layers, module_path
from lampq_onnx.graph.nodes import users
from lampq_onnx.graph.refusals import Outcome, Refused

_PARTS = 3
_PRODUCTS = frozenset({"MatMul", "Einsum", "Attention"})
_HOPS = 12
_MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze"})


class MergeQKV(CountingPass):
    """Merge three layers that read the same input and feed the same attention.

    1. The method treats them as one layer, which is also how most models define them.
    2. Their weights and biases are concatenated in the order query, key, value; a Split returns the parts. The merged
       layer also reads and quantizes its input once instead of three times.

    Attributes:
        count: number of merged layers.
    """

    purpose = "one layer for query, key and value"

    def apply(self, model: ir.Model) -> int:
        """Run the pass on a model."""
        groups: dict[tuple[ir.Value, str], list[GraphLayer]] = defaultdict(list)
        for layer in find_layers(model.graph):
            if layer.type == "qkv" and layer.node.op_type in ("MatMul", "Gemm"):
                groups[layer.input, layer.node.op_type].append(layer)
        self._refuse_own_inputs([layers[0] for layers in groups.values() if len(layers) == 1])
        return sum(self.settle(layers[0].name, _join(model.graph, layers)) for layers in groups.values())

    def _refuse_own_inputs(self, layers: Sequence[GraphLayer]) -> None:
        """Report layers that read the same tensor, but each through a node of its own."""
        moved: dict[tuple[ir.Value, str], list[GraphLayer]] = defaultdict(list)
        for layer in layers:
            node = layer.input.producer()
            if node is not None and node.op_type in _MOVES and node.inputs[0] is not None:
                moved[node.inputs[0], node.op_type].append(layer)
        for (_, operator), found in moved.items():
            if len(found) > 1:
                why = f"{len(found)} layers of attention read one tensor, each through a {operator} of its own"
                self.settle(found[0].name, Refused(why))


def _join(graph: ir.Graph, layers: Sequence[GraphLayer]) -> Outcome:
    """Merge the layers of one attention that read the same input; a single layer is joined already."""
    if len(layers) == 1:
        return False
    if len(layers) != _PARTS:
        return Refused(f"{len(layers)} layers of attention read the same input, and only {_PARTS} are merged")
    found = {_role(layer): layer for layer in layers}
    if set(found) != {"query", "key", "value"}:
        return Refused("the products that read the three layers do not show which one is query, key and value")
    reason = next((why for layer in layers if (why := _unusual(layer))), "")
    if reason:
        return Refused(reason)
    _merge(graph, [found["query"], found["key"], found["value"]])
    return True


def _unusual(layer: GraphLayer) -> str:
    """What the layer is beside a product with an optional bias of one number per output; empty: nothing."""
    if any(layer.node.attributes[k].as_float() != 1.0 for k in ("alpha", "beta") if k in layer.node.attributes):
        return "one of the three Gemm has an alpha or beta that is not 1"
    third = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    if third is not None and layer.bias is None:
        return "one of the three Gemm adds something else than a number for each output"
    if layer.node.outputs[0].is_graph_output():
        return "the result of one of the three is an output of the graph, whose name must stay"
    return ""


def _role(layer: GraphLayer) -> str:
    """Which operand of an attention's product the layer's result becomes: query, key or value; empty if unknown."""
    front = [(layer.output, reader) for reader in users(layer.output)]
    for _ in range(_HOPS):
        following = []
        for value, node in front:
            if node.op_type in _PRODUCTS:
                place = next(i for i, v in enumerate(node.inputs) if v is value)
                if node.op_type == "Attention":
                    return ("query", "key", "value", "")[min(place, 3)]
                if len(node.inputs) != 2 or any(v is None or v.const_value is not None for v in node.inputs):
                    return ""
                return ("query", "key")[place] if _makes_weights(node) else ("", "value")[place]
            following += [(out, reader) for out in node.outputs for reader in users(out)]
        front = following
    return ""


def _makes_weights(product: ir.Node) -> bool:
    """Whether a product's result is multiplied with other activations, with or without softmax, before any layer."""
    front = [product.outputs[0]]
    for _ in range(_HOPS):
        readers = [reader for value in front for reader in users(value)]
        layers = [n for n in readers if n.op_type in _PRODUCTS or n.op_type == "Gemm"]
        if any(n.op_type != "Gemm" and all(v is None or v.const_value is None for v in n.inputs) for n in layers):
            return True
        front = [out for reader in readers if reader not in layers for out in reader.outputs]
    return False


def _merge(graph: ir.Graph, layers: Sequence[GraphLayer]) -> None:
    ends = (initializer.rpartition(".") for initializer in graph.initializers)
    taken = {owner for owner, _, what in ends if what in ("weight", "bias", "sizes")}
    name = unused(_joint_name([layer.name for layer in layers]), taken)
    matrices = [layer.matrix() for layer in layers]
    weight = add_constant(graph, f"{name}.weight", np.ascontiguousarray(np.concatenate(matrices).T))
    source = layers[0].input
    first = next(node for node in graph if any(node is layer.node for layer in layers))
    found = [(layer.bias_vector(), len(matrix)) for layer, matrix in zip(layers, matrices, strict=True)]
    biases = [np.zeros(outputs, np.float32) if vector is None else vector for vector, outputs in found]
    bias = add_constant(graph, f"{name}.bias", np.concatenate(biases))
    if layers[0].node.op_type == "Gemm":
        nodes = [ir.node("Gemm", [source, weight, bias], name=name)]
    else:
        product = ir.node("MatMul", [source, weight], name=name)
        nodes = [product, ir.node("Add", [product.outputs[0], bias], name=f"{name}.add")]
    sizes = add_constant(graph, f"{name}.sizes", np.array([len(matrix) for matrix in matrices], np.int64))
    parts = ir.node("Split", [nodes[-1].outputs[0], sizes], {"axis": -1}, num_outputs=_PARTS, name=f"{name}.split")
    graph.insert_before(first, [*nodes, parts])
    for layer, part in zip(layers, parts.outputs, strict=True):
        take_over(layer.output, part)
    for layer in layers:
        graph.remove([layer.bias_node, layer.node] if layer.bias_node is not None else [layer.node], safe=True)


def _joint_name(names: Sequence[str]) -> str:
    """The part of the module path that the names share, followed by qkv."""
    parts = [re.split(r"([./])", name) for name in map(module_path, names)]
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))]
    return "".join(shared) + "qkv" if shared else f"{names[0]}.qkv"
