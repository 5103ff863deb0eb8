"""Explain which kernel runs each linear layer of a file, its time, and why it is not an integer kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.report import Latency
from lampq_onnx.converter.inspect import QuantizedLayer, inspect_model
from lampq_onnx.converter.unapplied import unapplied
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime.profile import Profile, profile_model

INTEGER_KERNELS = frozenset(
    {
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "QGemm",
        "QLinearConv",
        "ConvInteger",
    }
)
PROFILE_RUNS = 10
NAMED = 8
"""Number of runs, and of named layers, for the explanation why a file is slow."""

WEIGHT_ONLY_KERNEL = "MatMulNBits"
_LINEAR = INTEGER_KERNELS | {WEIGHT_ONLY_KERNEL, "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv"}
_HELPERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class LayerKernel:
    """One linear layer as onnxruntime runs it.

    Attributes:
        name: name of the layer.
        weight_bits: width of the weights; 32 is float.
        activation_bits: width of the input; 32 is float.
        kernel: operator of the optimized graph.
        microseconds: time of the kernel alone.
        conversion_microseconds: time of the QuantizeLinear and DequantizeLinear that run for this layer; one that
            several layers read counts for the first.
        reason: why the kernel is not an integer kernel; empty if it is.
    """

    name: str
    weight_bits: int
    activation_bits: int
    kernel: str
    microseconds: float
    conversion_microseconds: float
    reason: str

    @property
    def integer(self) -> bool:
        """Whether the products are computed in integers."""
        return self.kernel in INTEGER_KERNELS

    @property
    def total(self) -> float:
        """Time in microseconds, conversions included."""
        return self.microseconds + self.conversion_microseconds


@dataclass(frozen=True)
class Explanation:
    """A file as onnxruntime runs it.

    Attributes:
        layers: linear layers in graph order.
        operators: operator of the optimized graph -> microseconds, most expensive first.
        total_microseconds: sum over all operators.
        batch: images per run.
        threads: threads of the session.
        runs: number of measured runs.
        not_done: changes of the graph that the converter did not make in this file, with the reason.
    """

    layers: tuple[LayerKernel, ...]
    operators: Mapping[str, float]
    total_microseconds: float
    batch: int
    threads: int
    runs: int
    not_done: tuple[NotDone, ...] = ()


def explain_file(path: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int) -> Explanation:
    """Profile a file and find its layers in the optimized graph.

    Args:
        path: an ONNX file with one image input, quantized or not.
        images: (batch, c, h, w).

    Raises:
        LampqError: the file cannot be read or run.
    """
    model = load_model(path)
    profile = profile_model(path, images, threads=threads, runs=runs)
    return Explanation(
        layers=tuple(_layers(model, profile)),
        operators=profile.operators,
        total_microseconds=profile.total,
        batch=len(images),
        threads=threads,
        runs=runs,
        not_done=unapplied(model),
    )


def slower_layers(quantized: Explanation, reference: Explanation) -> list[str]:
    """Describe the layers that cost more in the quantized file than in the float file, worst first."""
    before = {layer.name: layer.total for layer in reference.layers}
    found = [
        (layer.total - before[layer.name], layer)
        for layer in quantized.layers
        if layer.name in before and layer.total > before[layer.name]
    ]
    return [
        f"{layer.name} ({layer.kernel}, {layer.total:.0f} us against {layer.total - more:.0f} us)"
        for more, layer in sorted(found, key=lambda item: -item[0])
    ]


def slowness(reference: Path, quantized: Path, images: npt.NDArray[np.float32], latency: Latency) -> list[str]:
    """Explain why a quantized file is slower than the float file: profile both, and name the layers that cost more.

    Args:
        reference: the float file.
        quantized: the quantized file.
        images: (batch, c, h, w).
        latency: latency of both files on these images.
    """
    before, after = (
        explain_file(path, images, threads=latency.threads, runs=min(latency.runs, PROFILE_RUNS))
        for path in (reference, quantized)
    )
    slow = slower_layers(after, before)
    found = f"the quantized file is slower than the float one ({latency.speedup:.2f}x). "
    if slow:
        count = f"{len(slow)} layers cost more, conversions included"
        return [f"{found}{count}{'; the slowest' if len(slow) > NAMED else ''}: {', '.join(slow[:NAMED])}"]
    conversions = sum(after.operators.get(operator, 0.0) for operator in _HELPERS)
    return [f"{found}No layer costs more; QuantizeLinear and DequantizeLinear take {conversions:.0f} us in total"]


@dataclass(frozen=True)
class _Place:
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


def _layers(model: ir.Model, profile: Profile) -> list[LayerKernel]:
    producers = {output: node for node in profile.graph.node for output in node.output}
    counted: set[str] = set()
    layers = []
    for place in _places(model):
        kernels = [_kernel(outputs, producers) for outputs in place.outputs]
        found = {kernel.name: kernel for kernel in kernels if kernel is not None}
        fresh = {helper.name for kernel in found.values() for helper in _helpers(kernel, producers)} - counted
        counted |= fresh
        operators = ["not found" if kernel is None else kernel.op_type for kernel in kernels]
        # If the parts run on different kernels, name the one that is not an integer kernel.
        operator = next((name for name in operators if name not in INTEGER_KERNELS), operators[0])
        quantized = place.quantized
        layers.append(
            LayerKernel(
                name=place.name,
                weight_bits=32 if quantized is None else quantized.weight_bits,
                activation_bits=32 if quantized is None else quantized.activation_bits,
                kernel=operator,
                microseconds=sum(profile.microseconds.get(name, 0.0) for name in found),
                conversion_microseconds=sum(profile.microseconds.get(name, 0.0) for name in fresh),
                reason="" if operator in INTEGER_KERNELS else _reason(place, operator),
            )
        )
    return layers


def _places(model: ir.Model) -> list[_Place]:
    """List all linear layers in graph order, quantized ones and those with float weights."""
    quantized = {layer.name: layer for layer in inspect_model(model)}
    written = {output for layer in quantized.values() for output in layer.outputs}
    order = {node: position for position, node in enumerate(model.graph)}
    nodes = {output.name: node for node in model.graph for output in node.outputs}
    places = []
    for layer in quantized.values():
        products = tuple(_product(nodes[output]) for output in layer.outputs)
        outputs = tuple((p.outputs[0].name or "", end) for p, end in zip(products, layer.outputs, strict=True))
        places.append(_Place(layer.name, products, outputs, layer))
    for graph_layer in find_layers(model.graph):
        if graph_layer.output.name not in written:
            outputs = ((graph_layer.node.outputs[0].name or "", graph_layer.output.name or ""),)
            places.append(_Place(graph_layer.name, (graph_layer.node,), outputs, None))
    return sorted(places, key=lambda place: order[place.nodes[0]])


def _product(node: ir.Node) -> ir.Node:
    """Return the product before the node that writes a layer's output: the Add or Reshape after it, if there is one."""
    while node.op_type in ("Add", "Reshape"):
        node = next(p for p in (v.producer() for v in node.inputs if v is not None) if p is not None)
    return node


def _kernel(outputs: Sequence[str], producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node of the optimized graph that computes one of these tensors."""
    node = next((producers[output] for output in outputs if output in producers), None)
    return node if node is None or node.op_type in _LINEAR else _behind(node, producers)


def _behind(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the linear kernel right before an Add or a change of layout."""
    for name in node.input:
        found = producers.get(name)
        if found is not None and found.op_type in _LINEAR:
            return found
    return None


def _helpers(kernel: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """List the conversions that run before a kernel, through reshapes and transposes."""
    found = []
    front = list(kernel.input)
    while front:
        node = producers.get(front.pop())
        if node is None:
            continue
        if node.op_type in _HELPERS:
            found.append(node)
            front.extend(node.input)
        elif node.op_type in ("Reshape", "Transpose", "Unsqueeze", "Squeeze"):
            front.extend(node.input[:1])
    return found


def _reason(place: _Place, operator: str) -> str:
    """Explain why a layer is not on an integer kernel."""
    layer = place.quantized
    if operator == "not found":
        return "its result was fused into another operator or is not computed"
    if layer is None:
        return "its weights are in float in the file"
    if layer.activation_bits > 16:
        why = "its input is not quantized"
        return f"{why}; the kernel itself rounds it to 8 bits" if operator == WEIGHT_ONLY_KERNEL else why
    if layer.activation_bits > 8:
        return "no integer kernel reads 16-bit inputs"
    node = place.nodes[0]
    dequantize = node.inputs[1].producer() if node.inputs[1] is not None else None
    source = None if dequantize is None or not dequantize.inputs else dequantize.inputs[0]
    stored = None if source is None or source.const_value is None else source.const_value.dtype
    if stored is not None and stored in _NARROW:
        return f"DequantizeLinear of {stored.name} is not fused; a Cast to INT8 before it, or exact packing, would be"
    if dequantize is not None and "block_size" in dequantize.attributes:
        return "its weights have a scale per block; integer kernels take one per output channel"
    if node.op_type == "Gemm" or operator in ("Gemm", "FusedGemm"):
        return (
            "a Gemm has an integer kernel only with a bias in int32 and zero points for weight and bias; "
            "a MatMul with three dimensions needs neither"
        )
    if node.op_type == "Conv":
        return "a Conv has no integer kernel with float output; a patch embedding can be a MatMul"
    return (
        "onnxruntime did not fuse its DequantizeLinear; its input or weight is read in a form no integer kernel takes"
    )


_NARROW: Sequence[ir.DataType] = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2)
