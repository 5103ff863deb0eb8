"""Linear layers of a graph, found by what the nodes compute, not by their names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.bias import Bias, bias_of
from lampq_onnx.graph.keys import TYPE_KEY, UNIT_KEY
from lampq_onnx.graph.nodes import constant_array, int_attribute, is_linear
from lampq_onnx.graph.roles import role_of


@dataclass(frozen=True)
class GraphLayer:
    """One MatMul, Gemm or Conv with constant weights.

    Attributes:
        name: layer name, unique in the graph.
        type: qkv, proj, fc1, fc2, patch_embed or head; linear: any other; conv: a convolution whose patches overlap.
        node: the MatMul, Gemm or Conv.
        weight: its constant input.
        added: its bias, if it has one (see `bias_of`).
    """

    name: str
    type: str
    node: ir.Node
    weight: ir.Value
    added: Bias | None

    @property
    def bias(self) -> ir.Value | None:
        """The constant that is added to the result, if any; its shape is not always (outputs,)."""
        return None if self.added is None else self.added.value

    @property
    def bias_node(self) -> ir.Node | None:
        """The Add of the bias, if the bias has its own node."""
        return None if self.added is None else self.added.add

    @property
    def input(self) -> ir.Value:
        """The activation that the layer reads."""
        value = self.node.inputs[0]
        assert value is not None  # recognize() skips nodes without it
        return value

    @property
    def output(self) -> ir.Value:
        """The layer's result, bias included."""
        return (self.bias_node or self.node).outputs[0]

    def matrix(self) -> npt.NDArray[np.float32]:
        """Return the weight as float32 (outputs, inputs), contiguous."""
        values = constant_array(self.weight).astype(np.float32)
        if self.node.op_type == "Conv":
            values = values.reshape(values.shape[0], -1)
        elif not (self.node.op_type == "Gemm" and int_attribute(self.node, "transB", 0)):
            values = values.T
        return np.ascontiguousarray(values)

    def bias_vector(self) -> npt.NDArray[np.float32] | None:
        """Return the bias as float32 (outputs,), if there is one."""
        return None if self.added is None else self.added.vector(len(self.matrix()))


def find_layers(graph: ir.Graph) -> list[GraphLayer]:
    """List all linear layers in graph order, with unique names and types.

    Names come from annotations, else from the name of the weight or bias, else from the exporter's scopes, else from
    the node.
    """
    layers: list[GraphLayer] = []
    taken: set[str] = set()
    for node in graph:
        if not is_linear(node):
            continue
        weight = node.inputs[1]
        assert weight is not None
        added = bias_of(node)
        name = base = node.metadata_props.get(UNIT_KEY) or _name(node, weight, None if added is None else added.value)
        suffix = 2
        while name in taken:
            name, suffix = f"{base}.{suffix}", suffix + 1
        taken.add(name)
        kind = node.metadata_props.get(TYPE_KEY) or role_of(node, graph)
        layers.append(GraphLayer(name, kind, node, weight, added))
    return layers


def annotate(layer: GraphLayer, name: str) -> None:
    """Write name and type into the graph, so that later readers need not recognize the layer again."""
    layer.node.name = name
    layer.node.metadata_props[UNIT_KEY] = name
    layer.node.metadata_props[TYPE_KEY] = layer.type


def scope_path(node: ir.Node) -> tuple[str, ...]:
    """Return the module paths that torch's exporter recorded for a node, outermost first."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    return tuple(part.strip(" '\"") for part in text.strip("[]").split(",") if part.strip(" '\""))


def module_path(name: str) -> str:
    """Return the dotted path in a node's name of torch's old exporter; other names stay unchanged.

    A node from the model's own forward, outside all submodules, has an empty path.

    >>> module_path("/blocks/blocks.0/attn/qkv/MatMul")
    'blocks.0.attn.qkv'
    >>> module_path("/MatMul_1")
    ''
    """
    if not name.startswith("/"):
        return name
    parts = name.strip("/").split("/")[:-1]
    kept = [part for part, after in zip_longest(parts, parts[1:], fillvalue="") if not after.startswith(f"{part}.")]
    return ".".join(kept)


def _name(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> str:
    for value, ending in ((weight, ".weight"), (bias, ".bias")):
        # Exporters merge equal constants: one that several nodes read has the name of only one of them.
        if value is None or len(value.uses()) > 1:
            continue
        if value.name and value.name.endswith(ending) and value.name != ending:
            return value.name.removesuffix(ending)
    scopes = scope_path(node)
    if len(scopes) > 1:
        return scopes[-2]
    return node.name or f"{node.op_type}.{weight.name}"
