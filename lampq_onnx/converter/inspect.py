"""Read the quantized layers of a file from its graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from lampq_onnx.artifacts.channel_widths import WithWidths
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.converter.packing.pool_rows import channel_rows
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.bias import bias_of, result_of
from lampq_onnx.graph.keys import (
    ACTIVATION_BITS_KEY,
    CHANNEL_BITS_KEY,
    SCHEME_KEY,
    SHARED_NAMES,
    STORAGE_KEY,
    TYPE_KEY,
    UNIT_KEY,
    WEIGHT_BITS_KEY,
)

_TYPE_BITS = {
    ir.DataType.INT2: 2,
    ir.DataType.UINT2: 2,
    ir.DataType.INT4: 4,
    ir.DataType.UINT4: 4,
    ir.DataType.INT8: 8,
    ir.DataType.UINT8: 8,
    ir.DataType.FLOAT8E4M3FN: 8,
    ir.DataType.INT16: 16,
    ir.DataType.UINT16: 16,
}

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class QuantizedLayer(WithWidths):
    """One layer whose weight is stored as integers, scaled by DequantizeLinear or by this converter's Cast and Mul.

    Attributes:
        name: layer name.
        type: layer type, e.g. qkv.
        weight_bits: planned width, the widest one if output channels differ; in files of other tools, the width of the
            stored type.
        activation_bits: planned width of the input, or that of its type; 32 if the input is not quantized.
        storage: exact, int2, int4, int8, uint8 ...
        scheme: how the integers are scaled.
        bytes: bytes of the packed weights.
        parameters: number of weights.
        input: name of the float tensor that the layer reads (before quantization).
        outputs: names of the float tensors that it writes, bias included; several if queries, keys and values are
            separate products.
        channel_bits: width -> number of output channels; None: all have one width.
    """

    name: str
    type: str
    weight_bits: int
    activation_bits: int
    storage: str
    scheme: str
    bytes: int
    parameters: int
    input: str
    outputs: tuple[str, ...]
    channel_bits: Mapping[int, int] | None = None


def inspect_model(model: ir.Model) -> list[QuantizedLayer]:
    """List the quantized layers in graph order; plain QDQ files of other tools are read too."""
    layers: dict[str | ir.Node | ir.Value, QuantizedLayer] = {}
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        scaling = scaling_of(node)
        if scaling is not None and _scales_integers(scaling) and _is_fixed(scaling.inputs[0]):
            part = _layer(node, scaling)
            # Separate products of one layer (`ProductPerPart`) read parts of the same weights.
            source = scaling.inputs[0].producer() if scaling.inputs[0] is not None else None
            whole = source.inputs[0] if source is not None and source.op_type == "Slice" else None
            layer = node.metadata_props.get(UNIT_KEY) or whole or node
            first = layers.get(layer)
            layers[layer] = part if first is None else _joined(first, part, scaling)
    return list(layers.values())


def _joined(first: QuantizedLayer, part: QuantizedLayer, scaling: ir.Node) -> QuantizedLayer:
    """Join separate products of one layer; weights that were cut before they were written add up."""
    source = scaling.inputs[0]
    own = source is not None and source.const_value is not None
    return replace(
        first,
        outputs=(*first.outputs, *part.outputs),
        bytes=first.bytes + (part.bytes if own else 0),
        parameters=first.parameters + (part.parameters if own else 0),
    )


def broken_constants(model: ir.Model) -> list[str]:
    """List the constants that hold NaN or plus infinity; minus infinity is allowed, because masks hold it."""
    found = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in _FLOATS:
            numbers = tensor.numpy()
            if np.isnan(numbers).any() or np.isposinf(numbers).any():
                found.append(name)
    return found


def scaling_of(node: ir.Node) -> ir.Node | None:
    """Return the node that makes the float weight of a layer.

    A Conv reads it through a Transpose and a Reshape, and float16 products may read it through a Cast.
    """
    weight = node.inputs[1]
    found = weight.producer() if weight is not None else None
    if found is not None and found.op_type == "Cast" and found.inputs[0] is not None:
        found = found.inputs[0].producer()
    while (
        node.op_type == "Conv" and found is not None and found.op_type in ("Reshape", "Transpose") and found.inputs[0]
    ):
        found = found.inputs[0].producer()
    return found


def _scales_integers(node: ir.Node) -> bool:
    """Whether the node scales a weight's integers to float: DequantizeLinear, or a Mul that this converter labelled."""
    return node.op_type == "DequantizeLinear" or (node.op_type == "Mul" and STORAGE_KEY in node.metadata_props)


def _layer(node: ir.Node, scaling: ir.Node) -> QuantizedLayer:
    labels = scaling.metadata_props
    packed = [v for v in dict.fromkeys(_constants(scaling.inputs[0])) if v.name and not v.name.startswith(SHARED_NAMES)]
    data = [v for v in packed if v.const_value is not None and v.const_value.dtype in _TYPE_BITS]
    stored = data[0].const_value if data else None
    type_bits = _TYPE_BITS[stored.dtype] if stored is not None else 0
    scale = scaling.inputs[1]
    bits = _width(node, labels, WEIGHT_BITS_KEY, type_bits)
    storage = labels.get(STORAGE_KEY) or (stored.dtype.name.lower() if stored is not None else "unknown")
    total = sum(v.const_value.nbytes for v in data if v.const_value is not None)
    channels = _channel_bits(node, labels)
    rows = channel_rows(scaling)
    count = _count(scaling, data, bits)
    if channels is not None and rows is not None:
        count = sum(channels.values()) * rows.inputs
        total = -(-sum(width * number for width, number in channels.items()) * rows.inputs // 8)
    start, activation_bits = _activation(node)
    output = result_of(node)
    readers = [use.node for use in output.uses()]
    if len(readers) == 1 and _ends_layer(readers[0], node):
        output = readers[0].outputs[0]
    return QuantizedLayer(
        name=node.metadata_props.get(UNIT_KEY) or node.name or output.name or "",
        type=node.metadata_props.get(TYPE_KEY, "linear"),
        weight_bits=bits,
        activation_bits=_width(node, labels, ACTIVATION_BITS_KEY, activation_bits),
        storage=storage,
        scheme=labels.get(SCHEME_KEY, "per-channel" if scale is not None and _is_vector(scale) else "per-tensor"),
        bytes=total,
        parameters=count,
        input=start.name or "",
        outputs=(output.name or "",),
        channel_bits=channels,
    )


def _ends_layer(reader: ir.Node, node: ir.Node) -> bool:
    """Whether the only reader of a product belongs to the layer: it adds the bias, or undoes the pass BiasInGemm."""
    if reader.op_type == "Reshape":
        return node.op_type == "Gemm" and UNIT_KEY in node.metadata_props
    bias = bias_of(node)
    return bias is not None and bias.node is reader


def _width(node: ir.Node, labels: Mapping[str, str], key: str, default: int) -> int:
    text = labels.get(key)
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text[:3]) <= FLOAT_BITS:
        raise LampqError(f"the metadata {key} of node {node.name} is {text[:40]!r}, not a width in bits")
    return int(text)


def _channel_bits(node: ir.Node, labels: Mapping[str, str]) -> dict[int, int] | None:
    """Read how many output channels have each width; None: all have the same."""
    text = labels.get(CHANNEL_BITS_KEY)
    if text is None:
        return None
    pairs = [re.fullmatch(r"([1-8]):([1-9][0-9]{0,8})", word) for word in text.split()]
    found = {int(pair[1]): int(pair[2]) for pair in pairs if pair is not None}
    if not found or len(found) != len(pairs):
        raise LampqError(f"the metadata {CHANNEL_BITS_KEY} of node {node.name} is {text[:40]!r}, not widths in bits")
    return found


def _is_fixed(value: ir.Value | None) -> bool:
    """Whether ``value`` is computed from constants alone; other tools also quantize products of two activations."""
    front, seen = [value], set()
    while front:
        current = front.pop()
        if current is None or current.const_value is not None or current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is None:
            return False
        front.extend(producer.inputs)
    return True


def _constants(value: ir.Value | None) -> list[ir.Value]:
    """Return the constants that a foldable chain starts from."""
    if value is None:
        return []
    if value.const_value is not None:
        return [value]
    producer = value.producer()
    if producer is None:
        return []
    return [constant for source in producer.inputs for constant in _constants(source)]


def _activation(node: ir.Node) -> tuple[ir.Value, int]:
    """Return the float tensor before QuantizeLinear, and the width of the quantized type."""
    value = node.inputs[0]
    assert value is not None
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return value, 32
    zero = producer.inputs[2] if len(producer.inputs) > 2 else None
    bits = _TYPE_BITS.get(zero.const_value.dtype, 8) if zero is not None and zero.const_value is not None else 8
    inner = producer.inputs[0]
    step = inner.producer()
    while step is not None and step.inputs[0] is not None:
        inner = step.inputs[0]
        if step.op_type == "QuantizeLinear":
            clip = inner.producer()
            if (
                clip is not None
                and clip.op_type == "Clip"
                and (clip.name or "").endswith(".input.clip")
                and clip.inputs[0]
            ):
                inner = clip.inputs[0]
            break
        step = inner.producer()
    return inner, bits


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) == 1


def _count(scaling: ir.Node, data: list[ir.Value], bits: int) -> int:
    source = scaling.inputs[0]
    if source is not None and source.const_value is not None:
        return int(source.const_value.size)
    for value in _constants(source):
        if value.name and value.name.endswith(".weight.shape") and value.const_value is not None:
            return int(np.prod(value.const_value.numpy()))
    tensors = [value.const_value for value in data if value.const_value is not None]
    if scaling.metadata_props.get(STORAGE_KEY) == "exact" and bits:
        # Whole groups of bytes that share their spare bits.
        return sum(tensor.nbytes for tensor in tensors) * 8 // bits
    return int(tensors[0].size) if tensors else 0
