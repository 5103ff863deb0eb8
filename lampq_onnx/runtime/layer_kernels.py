"""Linear layers of a file, and what a runtime executes for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.artifacts.channel_widths import bits_text
from lampq_onnx.converter.inspect import QuantizedLayer, inspect_model
from lampq_onnx.graph.layers import find_layers


@dataclass(frozen=True)
class LayerKernel:
    """One linear layer as a runtime executes it.

    Attributes:
        name: name of the layer.
        weight_bits: width of the weights, the widest if output channels differ; 32 is float.
        activation_bits: width of the input; 32 is float.
        kernel: operator of the executed graph, with the kernel where a runtime names it.
        microseconds: time of the kernel alone.
        conversion_microseconds: time of the QuantizeLinear and DequantizeLinear that run for this layer; one that
            several layers read counts for the first.
        reason: why the kernel is not an integer kernel; empty if it is.
        channel_bits: width -> number of output channels; None: all have one width.
    """

    name: str
    weight_bits: int
    activation_bits: int
    kernel: str
    microseconds: float
    conversion_microseconds: float
    reason: str
    channel_bits: Mapping[int, int] | None = None

    @property
    def bits_text(self) -> str:
        """The width of the weights as text: average and span if output channels differ."""
        return bits_text(self.weight_bits, self.channel_bits)

    @property
    def integer(self) -> bool:
        """Whether the products are computed in integers."""
        return not self.reason

    @property
    def total(self) -> float:
        """Time in microseconds, conversions included."""
        return self.microseconds + self.conversion_microseconds


@dataclass(frozen=True)
class Place:
    """A linear layer of the file, and its nodes.

    Attributes:
        name: layer name.
        nodes: its product, or the products of its parts.
        outputs: for each product, names of the tensors that its kernel may write: the product, or the sum with the
            bias.
        quantized: the quantized layer; None for layers with float weights.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    outputs: tuple[tuple[str, ...], ...]
    quantized: QuantizedLayer | None


def places_of(model: ir.Model) -> list[Place]:
    """List all linear layers in graph order, quantized ones and those with float weights."""
    quantized = {layer.name: layer for layer in inspect_model(model)}
    written = {output for layer in quantized.values() for output in layer.outputs}
    order = {node: position for position, node in enumerate(model.graph)}
    nodes = {output.name: node for node in model.graph for output in node.outputs}
    places = []
    for layer in quantized.values():
        products = tuple(product_of(nodes[output]) for output in layer.outputs)
        outputs = tuple((p.outputs[0].name or "", end) for p, end in zip(products, layer.outputs, strict=True))
        places.append(Place(layer.name, products, outputs, layer))
    for graph_layer in find_layers(model.graph):
        if graph_layer.output.name not in written:
            outputs = ((graph_layer.node.outputs[0].name or "", graph_layer.output.name or ""),)
            places.append(Place(graph_layer.name, (graph_layer.node,), outputs, None))
    return sorted(places, key=lambda place: order[place.nodes[0]])


def product_of(node: ir.Node) -> ir.Node:
    """Return the product before the node that writes a layer's output: the Add or Reshape after it, if there is one."""
    while node.op_type in ("Add", "Reshape"):
        node = next(p for p in (v.producer() for v in node.inputs if v is not None) if p is not None)
    return node
