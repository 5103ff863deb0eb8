"""Which kernel onnxruntime runs for each linear layer of a file, and why it is not an integer kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir

from lampq_onnx.runtime.layer_kernels import LayerKernel, Place
from lampq_onnx.runtime.profile import Profile

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

WEIGHT_ONLY_KERNEL = "MatMulNBits"
_LINEAR = INTEGER_KERNELS | {WEIGHT_ONLY_KERNEL, "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv"}
_FLOAT32 = "InsertedPrecisionFreeCast_"
"""Prefix of the names of float16 tensors that onnxruntime computes in float32 on a CPU."""

ROUNDS_INPUTS = 4
"""The accuracy_level of MatMulNBits at which it rounds its input to 8 bits."""

HELPERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def layer_kernels(places: Sequence[Place], profile: Profile) -> list[LayerKernel]:
    """Find each layer in the optimized graph.

    Args:
        places: layers of the file.
        profile: the optimized graph with its times.
    """
    producers = {output: node for node in profile.graph.node for output in node.output}
    counted: set[str] = set()
    layers = []
    for place in places:
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
                reason="" if operator in INTEGER_KERNELS else _reason(place, operator, found.values()),
                channel_bits=None if quantized is None else quantized.channel_bits,
            )
        )
    return layers


def _kernel(outputs: Sequence[str], producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node of the optimized graph that computes one of these tensors."""
    names = [name for output in outputs for name in (output, f"{_FLOAT32}{output}")]
    node = next((producers[name] for name in names if name in producers), None)
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
        if node.op_type in HELPERS:
            found.append(node)
            front.extend(node.input)
        elif node.op_type in ("Reshape", "Transpose", "Unsqueeze", "Squeeze"):
            front.extend(node.input[:1])
    return found


def _reason(place: Place, operator: str, kernels: Iterable[onnx.NodeProto]) -> str:
    """Explain why a layer is not on an integer kernel."""
    layer = place.quantized
    if operator == "not found":
        return "its result was fused into another operator or is not computed"
    if layer is None:
        return "its weights are in float in the file"
    if layer.activation_bits > 16:
        why = "its input is not quantized"
        levels = {a.i for node in kernels for a in node.attribute if a.name == "accuracy_level"}
        return f"{why}; the kernel itself rounds it to 8 bits" if ROUNDS_INPUTS in levels else why
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
