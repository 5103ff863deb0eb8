"""Queries, keys and values in rows of (tokens, batch), so that the products of attention need no moved heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.converter.passes.one_attention import HEADS_FIRST, KEYS_TURNED, moved_from, without_factor
from lampq_onnx.graph.edits import move_annotation, shape_constant
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.nodes import constant_array, users
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.shapes import Dimension, dimensions
from lampq_onnx.targets import Target

TOKENS_FIRST = {tuple(HEADS_FIRST): [1, 2, 0, 3], tuple(KEYS_TURNED): [1, 2, 3, 0]}
"""Order from (batch, tokens, heads, width) -> order from (tokens, batch, heads, width) to the same dimensions."""

KEYS_LAST = [0, 1, 3, 2]
"""From (batch, heads, tokens, width) to (batch, heads, width, tokens)."""

STANDARD = ("", "ai.onnx")
"""Names of the domain of standard operators."""

Batch = Dimension | tuple[ir.Value | None, int, int]
"""Equal ones are equal numbers of images, see `Rows.batch`."""


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


@dataclass(frozen=True)
class Rows:
    """Rows of (batch, tokens) that only products with heads read.

    Attributes:
        data: the DequantizeLinear that reads them.
        heads: its readers.
        tokens: number of tokens of an image.
        channels: number of channels of a token.
    """

    data: ir.Node
    heads: list[Heads]
    tokens: int
    channels: int

    @property
    def batch(self) -> Batch:
        """The batch: its size or name; if it has none, where the rows come from, and their sizes."""
        value = self.data.inputs[0]
        while value is not None:
            sizes, node = dimensions(value), value.producer()
            if sizes is not None and sizes[1:] == (self.tokens, self.channels):
                return sizes[0]
            if node is None or node.op_type not in ("Reshape", "QuantizeLinear") or node.domain not in STANDARD:
                break
            value = node.inputs[0]
        return value, self.tokens, self.channels


class TokensFirst(LayerPass[LayerFacts]):
    """Move the bytes of an input once, in place of the float results of its products.

    1. rows of (batch, tokens) -> Gemm -> (batch, tokens, heads, width) -> Transpose to the heads -> MatMul, for
       queries, keys and values: the rows become (tokens, batch) in front of the Gemms, by one Transpose in uint8, and
       the Transposes then move the first dimension behind others. onnxruntime takes those into its product
       (`transBatchA` and `transBatchB` of FusedMatMul), which reads the heads where the Gemm wrote them.
    2. All numbers are the same, but for the last bits of scores: from 65 tokens and heads of 64 channels on,
       FusedMatMul adds in another order where it moves heads itself. The values in between have other names than in
       the float graph, because they have another order.
    3. Layers that are no Gemms, for instance without a bias (`BiasInGemm`), read the bytes as they were.
    4. Rows keep their order if another Gemm than such reads them; if other nodes read what the Gemms write; and if the
       two values of a product are not known to have the same batch and heads: FusedMatMul repeats no values along
       dimensions that it moves.

    Args:
        parameters: layer -> what the pass must know about it.
        target: see `Target.tokens_first`.
    """

    purpose = "heads read where the layers wrote them"

    def __init__(self, parameters: Mapping[str, LayerFacts], target: Target) -> None:
        super().__init__(parameters)
        self._target = target

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._target.tokens_first:
            return 0
        read = [rows for node in model.graph if _dequantizes(node) and (rows := self._rows(model.graph, node))]
        splits = {one.split.outputs[0]: (rows.batch, one.sizes[2]) for rows in read for one in rows.heads}
        turned = [rows for rows in read if all(_in_product(model.graph, one, splits) for one in rows.heads)]
        for rows in turned:
            _turn(model.graph, rows)
        return len(turned)

    def _rows(self, graph: ir.Graph, data: ir.Node) -> Rows | None:
        """Return the rows that ``data`` reads, if all their readers are products with heads."""
        found = [_heads(graph, node, data.outputs[0]) for node in users(data.outputs[0])]
        heads = [one for one in found if one is not None]
        layers = [self.parameters.get(one.product.metadata_props.get(UNIT_KEY, "")) for one in heads]
        sizes = {(one.sizes[1], layer.inputs) for one, layer in zip(heads, layers, strict=True) if layer is not None}
        if len(heads) < len(found) or None in layers or len(sizes) != 1 or data.outputs[0].is_graph_output():
            return None
        ((tokens, channels),) = sizes
        return Rows(data, heads, tokens, channels)


def _turn(graph: ir.Graph, rows: Rows) -> None:
    """Turn rows of (batch, tokens) to (tokens, batch), and read the heads of the products in that order."""
    data, tokens, channels = rows.data, rows.tokens, rows.channels
    images = ir.node("Reshape", [data.inputs[0], shape_constant(graph, (-1, tokens, channels))], name="")
    turned = ir.node("Transpose", [images.outputs[0]], {"perm": [1, 0, 2]}, name="")
    turned_rows = ir.node("Reshape", [turned.outputs[0], shape_constant(graph, (-1, channels))], name="")
    graph.insert_before(data, [images, turned, turned_rows])
    data.replace_input_with(0, turned_rows.outputs[0])
    for one in rows.heads:
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
    if node.op_type != "Gemm" or node.domain not in STANDARD or node.graph is not graph:
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
    return Heads(node, split, move, tuple(sizes))


def _in_product(graph: ir.Graph, one: Heads, splits: Mapping[ir.Value, tuple[Batch, int]]) -> bool:
    """Whether a product of values of the same batch and heads alone reads the heads, behind factors and another move.

    Args:
        graph: the graph.
        one: the heads.
        splits: result of a Reshape to heads -> its batch and number of heads.
    """
    node: ir.Node | None = one.move
    while node is not None:
        value = node.outputs[0]
        node = only_reader(value, graph)
        if node is not None and node.op_type == "MatMul":
            (other,) = (read for read in node.inputs if read is not value)
            own, sizes = dimensions(value), dimensions(other)
            if own is None or sizes is None or len(sizes) != 4:
                return False
            return own[:2] == sizes[:2] or splits[one.split.outputs[0]] == _batch_and_heads(other, splits)
        if node is not None and _order(node) != tuple(KEYS_LAST) and without_factor(node) is None:
            return False
    return False


def _batch_and_heads(value: ir.Value | None, splits: Mapping[ir.Value, tuple[Batch, int]]) -> tuple[Batch, int] | None:
    """Return the batch and the number of heads of moved heads, or of the scores of such; None: not known."""
    if value is None:
        return None
    moved = moved_from(value)
    if moved.source in splits:
        return splits[moved.source] if tuple(moved.order) in TOKENS_FIRST else None
    sizes, scores = dimensions(value), value.producer()
    while scores is not None and scores.op_type != "MatMul":
        read = scores.inputs[0]
        # As many numbers before as behind: then equal sizes apart from the batch mean equal batches.
        same = scores.op_type in ("Softmax", "Reshape") or dimensions(read) == dimensions(scores.outputs[0]) is not None
        if read is None or not same or scores.domain not in STANDARD:
            return None
        scores = read.producer()
    if scores is None or scores.domain not in STANDARD or sizes is None:
        return None
    first, second = ((splits.get(moved_from(read).source) if read is not None else None) for read in scores.inputs)
    before = dimensions(scores.outputs[0])
    known = before is not None and before[1:] == sizes[1:] and all(isinstance(size, int) for size in sizes[1:])
    return first if known and first == second else None


def _order(node: ir.Node) -> tuple[int, ...]:
    """Return the order of a Transpose; of other nodes, nothing."""
    perm = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return () if perm is None else tuple(perm.as_ints())


def _dequantizes(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear" and node.domain in STANDARD


def _outputs(product: ir.Node) -> int | None:
    """Return the number of outputs of a Gemm that adds a constant bias through DequantizeLinear."""
    bias = product.inputs[2].producer() if len(product.inputs) > 2 and product.inputs[2] is not None else None
    steps = bias.inputs[0] if bias is not None and _dequantizes(bias) else None
    return None if steps is None or steps.const_value is None else steps.const_value.size
