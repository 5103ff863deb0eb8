"""What OpenVINO executes for each linear layer of a file, by its own runtime model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.runtime.layer_kernels import LayerKernel, Place

_LINEAR = ("FullyConnected", "MatMul", "Convolution")
_INTEGERS = ("u8", "i8")

_PART = "/WithoutBiases"
"""What OpenVINO adds to the name of a Conv whose bias it cuts off."""


@dataclass(frozen=True)
class Executed:
    """One node of the graph that OpenVINO executes.

    Attributes:
        name: its name there.
        sources: names of the nodes of the file that it computes.
        operator: e.g. FullyConnected.
        kernel: e.g. brgemm_avx512_amx_I8.
        precision: type of its input, e.g. u8.
        microseconds: median time.
    """

    name: str
    sources: tuple[str, ...]
    operator: str
    kernel: str
    precision: str
    microseconds: float

    @property
    def integer(self) -> bool:
        """Whether it multiplies integers."""
        return self.kernel.endswith("_I8") and self.precision in _INTEGERS


def layer_kernels(places: Sequence[Place], nodes: Sequence[Executed]) -> list[LayerKernel]:
    """Find each layer in the executed graph.

    Args:
        places: layers of the file.
        nodes: the executed graph.
    """
    by_source = {source: node for node in nodes for source in node.sources}
    products_of = {source.removesuffix(_PART): node for source, node in by_source.items() if node.operator in _LINEAR}
    layers = []
    counted: set[str] = set()
    for place in places:
        products = zip(place.nodes, place.outputs, strict=True)
        own = [_product(node, outputs, products_of) for node, outputs in products]
        found = {node.name: node for node in own if node is not None}
        # If the parts run on different kernels, name the one that is not an integer kernel.
        shown = next((node for node in own if node is None or not node.integer), own[0])
        conversions = {node.name: node for node in _conversions(place, by_source)} if found else {}
        fresh = [node for name, node in conversions.items() if name not in counted and name not in found]
        counted |= conversions.keys()
        quantized = place.quantized
        layers.append(
            LayerKernel(
                name=place.name,
                weight_bits=32 if quantized is None else quantized.weight_bits,
                activation_bits=32 if quantized is None else quantized.activation_bits,
                kernel="not found" if shown is None else f"{shown.operator} {shown.kernel}",
                microseconds=sum(node.microseconds for node in found.values()),
                conversion_microseconds=sum(node.microseconds for node in fresh),
                reason="" if shown is not None and shown.integer else _reason(place, shown),
                channel_bits=None if quantized is None else quantized.channel_bits,
            )
        )
    return layers


def _product(node: ir.Node, outputs: Sequence[str], products: dict[str, Executed]) -> Executed | None:
    """Return the node that computes a product.

    OpenVINO calls it by the name of the product or of the Add of its bias, or by its result if these have no names.
    """
    readers = [use.node for use in node.outputs[0].uses()]
    names = [node.name, *(r.name for r in readers if r.outputs[0].name in outputs), *outputs]
    return next((products[name] for name in names if name in products), None)


def _conversions(place: Place, by_source: dict[str, Executed]) -> list[Executed]:
    """List the nodes that only quantize the input of a layer; others do it in passing."""
    found = []
    for product in place.nodes:
        value = product.inputs[0]
        node = None if value is None else value.producer()
        while node is not None and node.op_type in ("DequantizeLinear", "Reshape", "Transpose", "QuantizeLinear"):
            executed = by_source.get(node.name or "")
            if node.op_type == "QuantizeLinear":
                if executed is not None and executed.sources == (node.name,):
                    found.append(executed)
                break
            value = node.inputs[0]
            node = None if value is None else value.producer()
    return found


def _reason(place: Place, node: Executed | None) -> str:
    """Explain why a layer is not on an integer kernel."""
    if node is None:
        return "its result was fused into another operator or is not computed"
    if place.quantized is None:
        return "its weights are in float in the file"
    if place.quantized.activation_bits > 16:
        if node.precision in _INTEGERS:
            return "its input is not quantized; the kernel may round it to 8 bits (DYNAMIC_QUANTIZATION_GROUP_SIZE)"
        return "its input is not quantized"
    if place.quantized.activation_bits > 8:
        return "OpenVINO removes QuantizeLinear of 16 bits"
    if place.quantized.storage == "uint8":
        return "its weights have a zero point, which keeps 8 bits exact on CPUs without VNNI; 7 bits run on integers"
    return "OpenVINO left its weights to a float kernel; convert the file for --target openvino"
