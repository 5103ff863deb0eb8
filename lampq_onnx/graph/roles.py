"""Roles of linear layers, told by the operators around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from lampq_onnx.graph.nodes import cuts_patches, int_attribute, is_linear, users

# Operators that pass on or combine values, but are neither a layer nor a non-linearity.
_TRANSPARENT = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Gather",
        "Concat",
        "Identity",
        "Cast",
        "Expand",
        "Flatten",
        "Clip",
        "BatchNormalization",
        "LayerNormalization",
        "RMSNormalization",
        "ReduceMean",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Dropout",
        "Pad",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
)

_ACTIVATIONS = frozenset(
    [
        "Gelu",
        "Erf",
        "Relu",
        "Sigmoid",
        "Tanh",
        "HardSwish",
        "HardSigmoid",
        "Swish",
        "LeakyRelu",
        "Elu",
        "Softplus",
        "Mish",
    ]
)

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})

SHAPE_OPERATORS = frozenset({"Shape", "Size"})
"""Operators that read how large a tensor is, not what it holds."""

_NORMALIZING = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operators that, with a constant, may prepare images inside a graph before the first layer."""

_STREAM = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten", "Dropout"})

_WEIGHTING = _STREAM | {"Mul", "Concat"}
"""Operators between sampled values and their sum, in deformable attention."""


def role_of(node: ir.Node, graph: ir.Graph) -> str:
    """Find the role of a layer from what it reads and what reads it."""
    if node.op_type == "Conv":
        if _streams_from_input(node, graph):
            return "patch_embed"
        if not cuts_patches(node):
            return "conv"
    elif _streams_from_input(node, graph) and not _ends(node, graph):
        return "patch_embed"
    if _before_residual(node, _is_attention):
        return "qkv"
    if _reach(node, _backward_activated, _is_attention):
        return "proj"
    if _reach(node, _backward_one, _is_activation):
        return "head" if _ends(node, graph) and not _joins_residual(node) else "fc2"
    if _before_residual(node, lambda n: _is_activation(n) or _is_gate(n)):
        return "fc1"
    if _ends(node, graph):
        return "head"
    return "linear"


def _reach(start: ir.Node, step: Callable[[ir.Node], Iterator[ir.Node]], accept: Callable[[ir.Node], bool]) -> bool:
    """Whether a node accepted by ``accept`` is reached through transparent nodes."""
    seen: set[ir.Node] = set()
    front = list(step(start))
    while front:
        node = front.pop()
        if node in seen:
            continue
        seen.add(node)
        if accept(node):
            return True
        if _is_transparent(node):
            front.extend(step(node))
    return False


def _is_transparent(node: ir.Node) -> bool:
    """Whether a node belongs to no layer; a convolution of single channels only mixes positions."""
    if node.op_type == "Conv":
        return int_attribute(node, "group", 1) > 1
    return node.op_type in _TRANSPARENT and not is_linear(node)


def _forward(node: ir.Node) -> Iterator[ir.Node]:
    for output in node.outputs:
        yield from (n for n in users(output) if n.op_type not in SHAPE_OPERATORS)


def _backward(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type not in SHAPE_OPERATORS:
            yield producer


def _is_attention(node: ir.Node) -> bool:
    """Whether a node mixes tokens; deformable attention does so by sampling the values at computed places."""
    if node.op_type in ("Attention", "MultiHeadAttention", "GridSample"):
        return True
    return node.op_type in ("MatMul", "Einsum") and not is_linear(node)


def _is_activation(node: ir.Node) -> bool:
    return node.op_type in _ACTIVATIONS


def _combines(node: ir.Node, operator: str) -> bool:
    """Whether a node is this operator with computed operands only."""
    return node.op_type == operator and all(value is not None and value.const_value is None for value in node.inputs)


def _is_gate(node: ir.Node) -> bool:
    """Whether two values are multiplied, one of which is the result of an activation function, as in SwiGLU."""
    return node.op_type == "Mul" and sum(map(_is_activated, _backward(node))) == 1


def _is_activated(node: ir.Node) -> bool:
    if node.op_type in _ACTIVATIONS:
        return True
    # x * sigmoid(x) is an activation function in two nodes.
    return node.op_type == "Mul" and any(n.op_type in _ACTIVATIONS for n in _backward(node))


def _before_residual(node: ir.Node, accept: Callable[[ir.Node], bool]) -> bool:
    """Search forward, stopping where the result joins a residual stream (an Add of two computed values).

    An Add whose operands both come from this result, as in rotary position embedding, joins nothing.
    """
    seen: set[ir.Node] = {node}
    front = list(_forward(node))
    waiting: list[ir.Node] = []
    while front:
        current = front.pop()
        if current in seen:
            continue
        if _combines(current, "Add") and not all(v is not None and v.producer() in seen for v in current.inputs):
            waiting.append(current)
            continue
        if accept(current):
            return True
        seen.add(current)
        if _is_transparent(current):
            front.extend(_forward(current))
        if not front:
            front, waiting = [add for add in waiting if _is_own_sum(add, seen)], []
    return False


def _is_own_sum(add: ir.Node, own: set[ir.Node]) -> bool:
    return add not in own and all(value is not None and value.producer() in own for value in add.inputs)


def _joins_residual(node: ir.Node) -> bool:
    """Whether the result is added to something that the layer itself depends on."""
    earlier: set[ir.Node] = set()
    front = [node]
    while front:
        fresh = [producer for producer in _backward(front.pop()) if producer not in earlier]
        earlier.update(fresh)
        front.extend(fresh)

    def joins(reader: ir.Node) -> bool:
        return _combines(reader, "Add") and any(v is not None and v.producer() in earlier for v in reader.inputs)

    def step(current: ir.Node) -> Iterator[ir.Node]:
        if not _combines(current, "Add"):
            yield from _forward(current)

    return _reach(node, step, joins)


def _backward_one(node: ir.Node) -> Iterator[ir.Node]:
    """Yield producers of the activation, but not through residual Adds or normalizations, except in a gated product."""
    for producer in _backward(node):
        if producer.op_type in _NORMS:
            normalized = next(_backward(producer), None)
            if normalized is None or not (_combines(normalized, "Mul") or _is_activated(normalized)):
                continue
        elif producer.op_type == "ReduceMean" or (_combines(producer, "Add") and not _is_of_one_layer(producer)):
            continue
        yield producer


def _is_of_one_layer(add: ir.Node) -> bool:
    """Whether all operands come from one layer, as in ConvNeXt V2: what was activated and its normalized copy."""
    layers: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    front = [add]
    while front:
        node = front.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_linear(node):
            layers.add(node)
        elif node.op_type == "Conv" or node.op_type in _NORMS or _is_attention(node) or _reads_images(node):
            return False
        else:
            front.extend(_backward(node))
        if len(layers) > 1:
            return False
    return len(layers) == 1


def _reads_images(node: ir.Node) -> bool:
    return any(v is not None and v.producer() is None and v.const_value is None for v in node.inputs)


def _backward_activated(node: ir.Node) -> Iterator[ir.Node]:
    """Yield producers back to attention: through data movement, and through the activation and the gate after it."""
    for producer in _backward(node):
        if _is_activation(producer):
            yield from _backward_activated(producer)
        elif producer.op_type == "ReduceSum":
            yield from _sampled(producer)
        elif (
            producer.op_type in _STREAM
            or _is_attention(producer)
            or _combines(producer, "Mul")
            or (producer.op_type in _NORMS and _is_moved_attention(producer))
        ):
            yield producer


def _is_moved_attention(norm: ir.Node) -> bool:
    """Whether a normalization reads the result of attention, as in BEiT-3, and not a residual stream."""
    value = norm.inputs[0]
    while value is not None and (producer := value.producer()) is not None and producer.op_type in _STREAM:
        value = producer.inputs[0]
    producer = None if value is None else value.producer()
    return producer is not None and _is_attention(producer)


def _sampled(total: ir.Node) -> Iterator[ir.Node]:
    """Yield the samplings whose weighted sum a node is, as in deformable attention."""
    front = list(_backward(total))
    while front:
        node = front.pop()
        if node.op_type == "GridSample":
            yield node
        elif node.op_type in _WEIGHTING:
            front.extend(_backward(node))


def _ends(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether no further layer follows before a graph output."""
    outputs = set(graph.outputs)

    def is_other(other: ir.Node) -> bool:
        return is_linear(other) or _is_attention(other)

    if _reach(node, _forward, is_other):
        return False
    return any(o in outputs for o in node.outputs) or _reach(
        node, _forward, lambda n: any(o in outputs for o in n.outputs)
    )


def _streams_from_input(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a layer reads images, possibly cut into patches or normalized."""
    value = node.inputs[0]
    while value is not None and value not in graph.inputs:
        producer = value.producer()
        if producer is None or producer.op_type not in _STREAM | _NORMALIZING:
            return False
        computed = [v for v in producer.inputs if v is not None and v.const_value is None]
        if producer.op_type in _NORMALIZING and len(computed) != 1:
            return False
        value = computed[0] if producer.op_type in _NORMALIZING else producer.inputs[0]
    return value is not None
