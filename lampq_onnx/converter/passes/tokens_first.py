"""Queries, keys and values in rows of (tokens, batch), so that the products of attention need no moved heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.converter.passes.one_attention import HEADS_FIRST, KEYS_TURNED, without_factor
from lampq_onnx.graph.edits import move_annotation, shape_constant
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.nodes import constant_array, users
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.shapes import dimensions
from lampq_onnx.targets import Target

TOKENS_FIRST = {tuple(HEADS_FIRST): [1, 2, 0, 3], tuple(KEYS_TURNED): [1, 2, 3, 0]}
"""Order from (batch, tokens, heads, width) -> order from (tokens, batch, heads, width) to the same dimensions."""

KEYS_LAST = [0, 1, 3, 2]
"""From (batch, heads, tokens, width) to (batch, heads, width, tokens)."""


@dataclass(frozen=True)
class Heads:
    """A Gemm whose result has heads.

    Attributes:
        product: the Gemm; its rows are (batch, tokens).
        split: Reshape to (batch, tokens, heads, width).
        move: Transpose to (batch, heads, tokens, width) or (batch, heads, width, tokens).
        sizes: batch or -1, tokens, heads and width.
    """

    product: ir.Node
    split: ir.Node
    move: ir.Node
    sizes: tuple[int, int, int, int]


class TokensFirst(LayerPass[LayerFacts]):
    """Move the bytes of an input once, in place of the float results of its products.

    1. rows of (batch, tokens) -> Gemm -> (batch, tokens, heads, width) -> Transpose to the heads -> MatMul, for
       queries, keys and values: the rows become (tokens, batch) in front of the Gemms, by one Transpose in uint8, and
       the Transposes then move the first dimension behind others. onnxruntime takes those into its product
       (`transBatchA` and `transBatchB` of FusedMatMul), which reads the heads where the Gemm wrote them.
    2. All numbers are the same to the bit. The values in between have other names than in the float graph, because they
       have another order.
    3. An input keeps its order if another node than such a Gemm reads it, and if other nodes read what the Gemms write.

    Args:
        parameters: layer -> what the pass must know about it.
        target: see `Target.tokens_first`.
    """

    purpose = "heads that the products of attention find themselves"

    def __init__(self, parameters: Mapping[str, LayerFacts], target: Target) -> None:
        super().__init__(parameters)
        self._target = target

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._target.tokens_first:
            return 0
        inputs = [node for node in model.graph if node.op_type == "DequantizeLinear"]
        return sum(self._rewrite(model.graph, node) for node in inputs)

    def _rewrite(self, graph: ir.Graph, data: ir.Node) -> bool:
        """Turn the rows that ``data`` reads, if all its readers are products with heads."""
        found = [_heads(graph, node, data.outputs[0]) for node in users(data.outputs[0])]
        heads = [one for one in found if one is not None]
        layers = [self.parameters.get(one.product.metadata_props.get(UNIT_KEY, "")) for one in heads]
        sizes = {(one.sizes[1], layer.inputs) for one, layer in zip(heads, layers, strict=True) if layer is not None}
        if len(heads) < len(found) or None in layers or len(sizes) != 1 or data.outputs[0].is_graph_output():
            return False
        ((tokens, channels),) = sizes
        _turn(graph, data, heads, tokens, channels)
        return True


def _turn(graph: ir.Graph, data: ir.Node, heads: list[Heads], tokens: int, channels: int) -> None:
    """Turn rows of (batch, tokens) to (tokens, batch), and read the heads of the products in that order."""
    images = ir.node("Reshape", [data.inputs[0], shape_constant(graph, (-1, tokens, channels))], name="")
    turned = ir.node("Transpose", [images.outputs[0]], {"perm": [1, 0, 2]}, name="")
    rows = ir.node("Reshape", [turned.outputs[0], shape_constant(graph, (-1, channels))], name="")
    graph.insert_before(data, [images, turned, rows])
    data.replace_input_with(0, rows.outputs[0])
    for one in heads:
        # New nodes, and so new names: the numbers are in another order.
        product = ir.node("Gemm", list(one.product.inputs), dict(one.product.attributes))
        move_annotation(one.product, product)
        batch, _, number, width = one.sizes
        split = ir.node("Reshape", [product.outputs[0], shape_constant(graph, (tokens, batch, number, width))], name="")
        graph.insert_before(one.product, product)
        graph.insert_before(one.split, split)
        one.move.replace_input_with(0, split.outputs[0])
        one.move.attributes["perm"] = ir.AttrInt64s("perm", TOKENS_FIRST[_order(one.move)])
        graph.remove([one.split, one.product], safe=True)


def _heads(graph: ir.Graph, node: ir.Node, data: ir.Value) -> Heads | None:
    """Return the product with heads that reads ``data`` as its rows, if ``node`` is one."""
    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx") or node.graph is not graph:
        return None
    if node.inputs[0] is not data or data in node.inputs[1:] or "transA" in node.attributes:
        return None
    split = only_reader(node.outputs[0], graph)
    if split is None or split.op_type != "Reshape" or split.inputs[0] is not node.outputs[0]:
        return None
    target, move = split.inputs[1], only_reader(split.outputs[0], graph)
    if target is None or target.const_value is None or move is None or _order(move) not in TOKENS_FIRST:
        return None
    sizes = constant_array(target).tolist()
    if len(sizes) != 4 or sizes[0] == 0 or sizes[1] < 2 or sizes[2] * sizes[3] != _outputs(node):
        return None
    return Heads(node, split, move, tuple(sizes)) if _in_product(graph, move) else None


def _in_product(graph: ir.Graph, move: ir.Node) -> bool:
    """Whether a product of two values of four dimensions alone reads the heads, behind factors and another move."""
    node: ir.Node | None = move
    while node is not None:
        value = node.outputs[0]
        node = only_reader(value, graph)
        if node is not None and node.op_type == "MatMul":
            return all(len(dimensions(read) or ()) == 4 for read in node.inputs if read is not value)
        if node is not None and _order(node) != tuple(KEYS_LAST) and without_factor(node) is None:
            return False
    return False


def _order(node: ir.Node) -> tuple[int, ...]:
    """Return the order of a Transpose; of other nodes, nothing."""
    perm = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return () if perm is None else tuple(perm.as_ints())


def _outputs(product: ir.Node) -> int | None:
    """Return the number of outputs of a Gemm that adds a constant bias through DequantizeLinear."""
    bias = product.inputs[2].producer() if len(product.inputs) > 2 and product.inputs[2] is not None else None
    steps = bias.inputs[0] if bias is not None else None
    return None if steps is None or steps.const_value is None else steps.const_value.size
