"""Find the linear layers of a graph by what the nodes compute, not by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.bias import Bias, bias_of
from lampq_onnx.graph.keys import TYPE_KEY, UNIT_KEY

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
SHAPE_OPERATORS = frozenset({"Shape", "Size"})
"""Operators that read how large a tensor is, not what it holds."""

_NORMALIZING = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operators that, with a constant, may prepare images inside a graph before the first layer."""

_STREAM = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten", "Dropout"})


@dataclass(frozen=True)
class LinearSite:
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


def constant_array(value: ir.Value) -> npt.NDArray[np.generic]:
    """Return the array of an initializer."""
    if value.const_value is None:
        raise LampqError(f"the tensor {value.name} is not a constant")
    return np.asarray(value.const_value.numpy())


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def users(value: ir.Value) -> list[ir.Node]:
    """List the nodes that read ``value``."""
    return [use.node for use in value.uses()]


def find_sites(graph: ir.Graph) -> list[LinearSite]:
    """List all linear layers in graph order, with unique names and types.

    Names come from annotations, else from the name of the weight or bias, else from the exporter's scopes, else from
    the node.
    """
    sites: list[LinearSite] = []
    taken: set[str] = set()
    for node in graph:
        if not _is_linear(node):
            continue
        weight = node.inputs[1]
        assert weight is not None
        added = bias_of(node)
        name = base = node.metadata_props.get(UNIT_KEY) or _name(node, weight, None if added is None else added.value)
        suffix = 2
        while name in taken:
            name, suffix = f"{base}.{suffix}", suffix + 1
        taken.add(name)
        kind = node.metadata_props.get(TYPE_KEY) or _type(node, graph)
        sites.append(LinearSite(name, kind, node, weight, added))
    return sites


def annotate(site: LinearSite, name: str) -> None:
    """Write name and type into the graph, so that later readers need not recognize the layer again."""
    site.node.name = name
    site.node.metadata_props[UNIT_KEY] = name
    site.node.metadata_props[TYPE_KEY] = site.type


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


def _is_linear(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or weight.const_value.dtype not in _FLOATS:
        return False
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return rank == 4 and int_attribute(node, "group", 1) == 1
    if node.op_type == "Gemm":
        return rank == 2 and not int_attribute(node, "transA", 0)
    return node.op_type == "MatMul" and rank == 2


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _name(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> str:
    for value, ending in ((weight, ".weight"), (bias, ".bias")):
        if value is not None and value.name and value.name.endswith(ending) and value.name != ending:
            return value.name.removesuffix(ending)
    scopes = scope_path(node)
    if len(scopes) > 1:
        return scopes[-2]
    return node.name or f"{node.op_type}.{weight.name}"


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
    return node.op_type in _TRANSPARENT and not _is_linear(node)


def _forward(node: ir.Node) -> Iterator[ir.Node]:
    for output in node.outputs:
        yield from (n for n in users(output) if n.op_type not in SHAPE_OPERATORS)


def _backward(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type not in SHAPE_OPERATORS:
            yield producer


def _is_attention(node: ir.Node) -> bool:
    if node.op_type in ("Attention", "MultiHeadAttention"):
        return True
    return node.op_type in ("MatMul", "Einsum") and not _is_linear(node)


def _type(node: ir.Node, graph: ir.Graph) -> str:
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


def cuts_patches(node: ir.Node) -> bool:
    """Whether a Conv is a matrix applied to patches that do not overlap; a pointwise one is."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    kernel = [int(k) for k in weight.const_value.shape.numpy()[2:]]
    attributes = {key: list(a.as_ints()) for key, a in node.attributes.items() if a.type == ir.AttributeType.INTS}
    padded = any(attributes.get("pads", [0])) or any(d != 1 for d in attributes.get("dilations", [1]))
    return attributes.get("strides", [1, 1]) == kernel and not padded


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
    """Search forward, stopping where the result joins a residual stream (an Add of two computed values)."""

    def step(current: ir.Node) -> Iterator[ir.Node]:
        yield from (reader for reader in _forward(current) if not _combines(reader, "Add"))

    return _reach(node, step, accept)


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
        if producer.op_type in ("LayerNormalization", "RMSNormalization"):
            normalized = next(_backward(producer), None)
            if normalized is None or not _combines(normalized, "Mul"):
                continue
        elif producer.op_type == "ReduceMean" or _combines(producer, "Add"):
            continue
        yield producer


def _backward_activated(node: ir.Node) -> Iterator[ir.Node]:
    """Yield producers back to attention: through data movement, and through the activation and the gate after it."""
    for producer in _backward(node):
        if _is_activation(producer):
            yield from _backward_activated(producer)
        elif producer.op_type in _STREAM or _is_attention(producer) or _combines(producer, "Mul"):
            yield producer


def _ends(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether no further layer follows before a graph output."""
    outputs = set(graph.outputs)

    def is_other(other: ir.Node) -> bool:
        return _is_linear(other) or _is_attention(other)

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
