"""MatMul, Softmax and MatMul -> the operator Attention."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, shape_constant
from lampq_onnx.graph.nodes import constant_array, int_attribute, users
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import Dimension, dimensions
from lampq_onnx.targets import ATTENTION_OPSET

HEADS_FIRST, KEYS_TURNED = [0, 2, 1, 3], [0, 2, 3, 1]
"""From (batch, tokens, heads, width) to (batch, heads, tokens, width), and to (batch, heads, width, tokens)."""


@dataclass(frozen=True)
class Core:
    """The operators of one attention layer.

    Attributes:
        softmax: Softmax of the scores.
        scores: product of queries and keys.
        mixing: product of probabilities and values.
        factor: what the scores are multiplied with before the softmax.
    """

    softmax: ir.Node
    scores: ir.Node
    mixing: ir.Node
    factor: float


class OneAttention(CountingPass):
    """Compute an attention layer with one operator, which moves the heads itself.

    1. softmax(q k^T * factor) v with q, k and v of shape (batch, tokens, heads, width), moved to the heads by
       Transposes -> Attention of (batch, tokens, heads * width). Factors on queries, keys and scores become its scale.
    2. The Transpose back and the Reshapes around it are not needed any more.
    3. Layers keep their operators if something is added to the scores, if several nodes read them, or if the heads are
       laid out in another way.

    Args:
        wanted: whether the caller asked for the operator.
        wide: tensors that stay in float32, see `ToFloat16`. Layers with such scores or results keep their operators.
    """

    purpose = "attention as one operator"

    def __init__(self, *, wanted: bool, wide: Collection[str] = ()) -> None:
        super().__init__()
        self._wanted = wanted
        self._wide = frozenset(wide)

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._wanted:
            return 0
        return sum(
            self.settle(softmax.name or softmax.outputs[0].name or "", self._rewrite(model.graph, softmax))
            for softmax in [node for node in model.graph if _standard(node, "Softmax")]
        )

    def _rewrite(self, graph: ir.Graph, softmax: ir.Node) -> Outcome:
        core = core_of(graph, softmax)
        if not isinstance(core, Core):
            return core
        inside = (v for node in (core.scores, softmax, core.mixing) for v in (*node.inputs, *node.outputs))
        if any(value is not None and value.name in self._wide for value in inside):
            return Refused("its scores or results overflow in float16, and one operator has them all in one type")
        if graph.opset_imports.get("", 0) < ATTENTION_OPSET:
            return Refused(f"it needs opset {ATTENTION_OPSET}")
        moved = [
            moved_from(core.scores.inputs[0]),
            moved_from(core.scores.inputs[1]),
            moved_from(core.mixing.inputs[1]),
        ]
        shapes = [value.shape for value in moved if value.shape is not None]
        if [value.order for value in moved] != [HEADS_FIRST, KEYS_TURNED, HEADS_FIRST] or len(shapes) < 3:
            return Refused("queries, keys and values are not of the shape (batch, tokens, heads, width)")
        number, *others = [shape[2] for shape in shapes]
        widths = [shape[3] for shape in shapes]
        if not isinstance(number, int) or any(count != number for count in others):
            return Refused("queries, keys and values have different numbers of heads")
        if moved[2].factor != 1:
            return Refused("its values are multiplied with a number")
        if len({shape[0] for shape in shapes}) > 1:
            return Refused("queries, keys and values have different batch sizes")
        if not all(isinstance(width, int) for width in widths):
            return Refused("the width of the heads is known only at run time")
        back = _way_back(graph, core.mixing.outputs[0])
        if isinstance(back, Refused):
            return back
        joined = [_joined(graph, value, core.scores) for value in moved]
        factor = core.factor * moved[0].factor * moved[1].factor
        attention = ir.node(
            "Attention", joined, {"q_num_heads": number, "kv_num_heads": number, "scale": factor}, name=softmax.name
        )
        graph.insert_before(core.mixing, attention)
        for reader in back:
            reader.replace_input_with(0, attention.outputs[0])
        return True


def core_of(graph: ir.Graph, softmax: ir.Node) -> Core | Refused | bool:
    """Return the products around a Softmax; False if it is not the softmax of an attention layer."""
    mixing = only_reader(softmax.outputs[0], graph)
    if mixing is None or mixing.op_type != "MatMul" or mixing.inputs[0] is not softmax.outputs[0]:
        return False
    shape = dimensions(softmax.inputs[0])
    if int_attribute(softmax, "axis", -1) not in (-1, 3) or (shape is not None and len(shape) != 4):
        return Refused("its softmax is not over the last of four dimensions")
    factor, value = 1.0, softmax.inputs[0]
    while True:
        node = value.producer() if value is not None else None
        if node is None or value is None or only_reader(value, graph) is None:
            return Refused("something else reads the scores too")
        if _standard(node, "MatMul"):
            return Core(softmax, node, mixing, factor)
        scaled = without_factor(node)
        if scaled is None:
            return Refused(f"a {node.op_type} stands between the scores and the softmax")
        value, factor = scaled[0], factor * scaled[1]


def has_core(graph: ir.Graph) -> bool:
    """Whether the graph has an attention layer that the operator may compute."""
    return any(isinstance(core_of(graph, node), Core) for node in graph if _standard(node, "Softmax"))


@dataclass(frozen=True)
class Moved:
    """A value behind Transposes and factors.

    Attributes:
        source: the value before them.
        order: position i -> dimension of the source.
        factor: product of the factors.
        shape: shape of the source; None: not known, or not of four dimensions.
    """

    source: ir.Value
    order: list[int]
    factor: float
    shape: tuple[Dimension, ...] | None


def moved_from(value: ir.Value | None) -> Moved:
    """Return what is behind the Transposes and factors of a value of four dimensions."""
    assert value is not None
    order, factor, shape = [0, 1, 2, 3], 1.0, dimensions(value)
    while True:
        node = value.producer()
        perm = node.attributes.get("perm") if node is not None and _standard(node, "Transpose") else None
        if node is not None and perm is not None and len(perm.as_ints()) == 4 and node.inputs[0] is not None:
            order, value = [list(perm.as_ints())[i] for i in order], node.inputs[0]
            continue
        scaled = without_factor(node) if node is not None else None
        if scaled is None:
            source = tuple(shape[order.index(i)] for i in range(4)) if shape is not None and len(shape) == 4 else None
            return Moved(value, order, factor, source)
        value, factor = scaled[0], factor * scaled[1]


def without_factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return what a Mul or Div with a single constant number scales, and the factor."""
    if not _standard(node, "Mul") and not _standard(node, "Div"):
        return None
    first, second = node.inputs[:2]
    if first is None or second is None:
        return None
    if _single(second):
        number = float(constant_array(second).reshape(-1)[0])
        return first, number if node.op_type == "Mul" else 1 / number
    if _single(first) and node.op_type == "Mul":
        return second, float(constant_array(first).reshape(-1)[0])
    return None


def _single(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def _standard(node: ir.Node, kind: str) -> bool:
    return node.op_type == kind and node.domain in ("", "ai.onnx")


def _way_back(graph: ir.Graph, mixed: ir.Value) -> list[ir.Node] | Refused:
    """Return the Reshapes that join the heads after a Transpose of the mixed values."""
    refused = Refused("its result is not moved back to (batch, tokens, heads * width)")
    reader = only_reader(mixed, graph)
    if reader is None or reader.op_type != "Transpose":
        return refused
    perm = reader.attributes.get("perm")
    turned = reader.outputs[0]
    if perm is None or list(perm.as_ints()) != HEADS_FIRST or turned.is_graph_output():
        return refused
    joining = users(turned)
    if not joining or not all(_standard(node, "Reshape") and _joins(node.inputs[1]) for node in joining):
        return refused
    return joining


def _joins(target: ir.Value | None) -> bool:
    """Whether a Reshape to this shape gives the same from (batch, tokens, heads * width)."""
    if target is None or target.const_value is None:
        return False
    sizes = constant_array(target).tolist()
    return 0 not in sizes[2:]  # a 0 copies a dimension of what the Reshape reads


def _joined(graph: ir.Graph, value: Moved, before: ir.Node) -> ir.Value:
    """Return a value of shape (batch, tokens, heads, width) as (batch, tokens, heads * width)."""
    assert value.shape is not None
    _, tokens, heads, width = value.shape
    joined, split = int(heads) * int(width), value.source.producer()
    if split is not None and _standard(split, "Reshape") and isinstance(tokens, int):
        read, sizes = split.inputs[0], (-1, tokens, joined)
    else:
        read, sizes = value.source, (0, 0, joined)
    reshape = ir.node("Reshape", [read, shape_constant(graph, sizes)], name="")
    graph.insert_before(before, reshape)
    return reshape.outputs[0]
