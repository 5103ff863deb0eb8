"""Replace MatMul -> Split by one product per part, so that no result is split at run time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import add_constant, move_annotation, shape_constant, shared_constant, take_over, unused
from lampq_onnx.graph.keys import STORAGE_KEY, UNIT_KEY
from lampq_onnx.graph.nodes import constant_array, int_attribute, users
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import Dimension, dimensions
from lampq_onnx.targets import Target

MOST_PARTS = 8
LEAST_CHANNELS = 8
"""Limits for parts. More parts, or parts of fewer output channels, stay in one product: each product is a node, and the
kernels process as many channels at a time as a vector register holds."""


class ProductPerPart(LayerPass[LayerFacts]):
    """Split the weights of a layer once, instead of its result at every run.

    1. MatMul -> Add -> Reshape [.., parts, ..] -> Transpose -> Split -> Squeeze, as exporters write queries, keys and
       values (with `SplitUnbind`), becomes MatMul -> Add -> Reshape -> Transpose for each part; likewise without the
       Transpose. MatMul -> Add -> Split along the last axis becomes MatMul -> Add for each part.
    2. The packed weights stay one tensor; Slices after their unpacking are folded when the file is loaded (MNN computes
       a Split of integers wrongly). For targets that fold nothing, the weights are cut here, as scales and biases
       always are. Every output channel keeps its numbers, so the results are identical to the bit.
    3. All products carry the layer's name. The first one, and the node that scales its weight, carry the other
       annotations. A part that nothing reads has none.
    4. Left unchanged: parts that are not consecutive output channels, many or narrow parts, and results that something
       else reads.

    Args:
        parameters: layer -> what the pass must know about it.
        target: see `Target.part_products`.
    """

    purpose = "a product for each of query, key and value, instead of a Split of one result"

    def __init__(self, parameters: Mapping[str, LayerFacts], target: Target) -> None:
        super().__init__(parameters)
        self._target = target
        self._nodes: set[str] = set()
        self._values: set[str] = set()
        self._cuts: dict[bytes, ir.Value] = {}

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._target.part_products:
            return self.settle("", Refused(f"{self._target.name} gains nothing from it"))
        graph = model.graph
        self._nodes = {node.name for node in graph if node.name}
        written = (output for node in graph for output in node.outputs)
        self._values = {value.name for value in (*graph.inputs, *graph.initializers.values(), *written) if value.name}
        self._cuts.clear()
        return sum(self.settle(name, self._rewrite(graph, name, node)) for name, node in self.layers(model))

    def _rewrite(self, graph: ir.Graph, name: str, node: ir.Node) -> Outcome:
        last_scaling = node.inputs[1].producer() if node.inputs[1] is not None else None
        if node.op_type != "MatMul" or last_scaling is None:
            return False
        scaling = _scaling_nodes(last_scaling)
        outputs = self.parameters[name].outputs
        bias = bias_of(node, outputs)
        result = node.outputs[0] if bias is None else bias.node.outputs[0]
        found = _parts(result, outputs, graph)
        if not isinstance(found, _Parts):
            return found
        if not _pays(found.sizes):
            return Refused(f"{len(found.sizes)} parts of at least {min(found.sizes)} channels do not pay off")
        read = [index for index, end in enumerate(found.ends) if users(end) or end.is_graph_output()]
        for index, product in zip(read, self._products(graph, name, node, scaling, found.sizes, read), strict=True):
            size = found.sizes[index]
            last = _typed(product.outputs[0], node.outputs[0], size)
            if bias is not None:
                add = ir.node("Add", [last, self._cut(graph, bias.value, found.sizes, index)], name="")
                graph.insert_before(node, add)
                last = _typed(add.outputs[0], result, size)
            for move in found.moves(graph):
                move.replace_input_with(0, last)
                graph.insert_before(node, move)
                last = move.outputs[0]
            take_over(found.ends[index], last)
        graph.remove(found.removed, safe=True)
        if bias is not None:
            graph.remove(bias.node, safe=True)
        graph.remove([node, *scaling], safe=True)
        return True

    def _products(
        self,
        graph: ir.Graph,
        name: str,
        node: ir.Node,
        scaling: Sequence[ir.Node],
        sizes: Sequence[int],
        read: Sequence[int],
    ) -> list[ir.Node]:
        """Make a MatMul for each part that is read, with the nodes that scale its weight, before ``node``.

        Args:
            graph: receives the constants.
            name: the layer.
            node: its MatMul.
            scaling: the nodes that scale the whole weight, last one first.
            sizes: output channels of each part.
            read: indices of the parts that are read.
        """
        weights = self._weights(graph, node, scaling[-1].inputs[0], sizes)
        labels = scaling[0].metadata_props
        products: list[ir.Node] = []
        for index in read:
            weight = weights[index]
            for old in reversed(scaling):
                constants = [self._cut(graph, value, sizes, index) for value in old.inputs[1:] if value is not None]
                new = ir.node(old.op_type, [weight, *constants], dict(old.attributes), name="")
                graph.insert_before(node, new)
                weight = new.outputs[0]
            last = weight.producer()
            assert last is not None
            last.metadata_props.update({STORAGE_KEY: labels[STORAGE_KEY]} if products else labels)
            product = ir.node("MatMul", [node.inputs[0], weight])
            if not products:
                move_annotation(node, product)
            product.name = unused(f"{name}.{index}", self._nodes)
            product.metadata_props[UNIT_KEY] = name
            graph.insert_before(node, product)
            products.append(product)
        return products

    def _weights(
        self, graph: ir.Graph, node: ir.Node, whole: ir.Value | None, sizes: Sequence[int]
    ) -> Sequence[ir.Value]:
        """Cut the packed weights: by Slices before ``node``, or, if the target folds nothing, as constants."""
        assert whole is not None
        edges = [0, *accumulate(sizes)]
        if self._target.folds:
            ends = [shared_constant(graph, f"lampq.edge.{edge}", np.array([edge], np.int64)) for edge in edges]
            axis = shared_constant(graph, "lampq.columns", np.array([1], np.int64))
            cuts = [ir.node("Slice", [whole, *pair, axis], name="") for pair in pairwise(ends)]
            graph.insert_before(node, cuts)
            return [cut.outputs[0] for cut in cuts]
        parts = np.split(constant_array(whole), edges[1:-1], axis=1)
        names = [unused(f"{whole.name}.{index}", self._values) for index in range(len(sizes))]
        return [add_constant(graph, name, np.ascontiguousarray(part)) for name, part in zip(names, parts, strict=True)]

    def _cut(self, graph: ir.Graph, value: ir.Value, sizes: Sequence[int], index: int) -> ir.Value:
        """Cut one part out of a constant with one number per output channel, or one for all; equal parts are shared."""
        array = constant_array(value).reshape(-1)
        start = sum(sizes[:index])
        part = np.ascontiguousarray(np.broadcast_to(array, (sum(sizes),))[start : start + sizes[index]])
        key = str(part.dtype).encode() + part.tobytes()
        if key not in self._cuts:
            name = unused(f"{value.name}.{start}.{sizes[index]}", self._values)
            self._cuts[key] = add_constant(graph, name, part)
        return self._cuts[key]


@dataclass(frozen=True)
class _Parts:
    """How a layer's result is split.

    Attributes:
        sizes: output channels of each part.
        ends: the parts.
        shape: shape that each part gets by a Reshape; None: the shape of its product.
        perm: permutation of the Transpose after it.
        removed: nodes that split the result, last ones first.
    """

    sizes: tuple[int, ...]
    ends: tuple[ir.Value, ...]
    shape: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    removed: tuple[ir.Node, ...]

    def moves(self, graph: ir.Graph) -> list[ir.Node]:
        """Make the nodes for one part; their inputs are still to be set."""
        nodes = []
        if self.shape is not None:
            nodes.append(ir.node("Reshape", [None, shape_constant(graph, self.shape)], name=""))
        if self.perm is not None:
            nodes.append(ir.node("Transpose", [None], {"perm": self.perm}, name=""))
        return nodes


def _parts(result: ir.Value, outputs: int, graph: ir.Graph) -> _Parts | Refused | Literal[False]:
    """Find out how a layer's result is split; False if it is not."""
    reader = only_reader(result, graph)
    if reader is None:
        shared = len(users(result)) > 1 or result.is_graph_output()
        return _SHARED if shared and any(user.op_type == "Split" for user in users(result)) else False
    if reader.op_type == "Split":
        return _along_channels(reader, result, outputs)
    reshapes = []
    while reader is not None and reader.op_type in ("Reshape", "Squeeze"):
        reshapes.append(reader)
        reader = only_reader(reader.outputs[0], graph)
    transpose = reader if reader is not None and reader.op_type == "Transpose" else None
    split = reader if transpose is None else only_reader(transpose.outputs[0], graph)
    if split is None or split.op_type != "Split" or not reshapes:
        last = transpose or (reshapes[-1] if reshapes else None)
        behind = [] if last is None else users(last.outputs[0])
        return _SHARED if len(behind) > 1 and any(user.op_type == "Split" for user in behind) else False
    return _along_new_axis(reshapes, transpose, split, outputs, graph)


_SHARED = Refused("something else reads its whole result as well")
_SCATTERED = Refused("its parts are not consecutive output channels")
_UNKNOWN = Refused("the shape of its result, apart from the batch, is not known")


def _pays(sizes: Sequence[int]) -> bool:
    return 1 < len(sizes) <= MOST_PARTS and min(sizes) >= LEAST_CHANNELS


def _along_channels(split: ir.Node, result: ir.Value, outputs: int) -> _Parts | Refused:
    """Return the parts of a Split along the last axis."""
    shape = dimensions(result)
    if shape is None:
        return _UNKNOWN
    if int_attribute(split, "axis", 0) % len(shape) != len(shape) - 1:
        return _SCATTERED
    given = split.inputs[1] if len(split.inputs) > 1 else None
    if given is not None and given.const_value is not None:
        sizes = tuple(int(size) for size in constant_array(given))
    else:
        ends = [(dimensions(output) or (None,))[-1] for output in split.outputs]
        sizes = tuple(size for size in ends if isinstance(size, int))
    if len(sizes) != len(split.outputs) or sum(sizes) != outputs:
        return Refused("the sizes of its parts are not known")
    return _Parts(sizes, tuple(split.outputs), None, None, (split,))


def _along_new_axis(
    reshapes: Sequence[ir.Node], transpose: ir.Node | None, split: ir.Node, outputs: int, graph: ir.Graph
) -> _Parts | Refused:
    """Return the parts, of size 1, of an axis that the last of ``reshapes`` makes out of the channels."""
    reshape = reshapes[-1]
    shape = dimensions(reshape.outputs[0])
    wanted = reshape.inputs[1] if reshape.op_type == "Reshape" else None
    if shape is None or wanted is None or wanted.const_value is None:
        return _UNKNOWN
    perm = tuple(range(len(shape)))
    if transpose is not None:
        if "perm" not in transpose.attributes:
            return _SCATTERED
        perm = tuple(int(axis) for axis in transpose.attributes["perm"].as_ints())
    split_axis = int_attribute(split, "axis", 0) % len(shape)
    axis = perm[split_axis]
    target = [int(size) for size in constant_array(wanted)]
    count = len(split.outputs)
    # A 0 copies the size at its position, which is a different one without the axis and without earlier reshapes; or it
    # means size 0.
    plain = len(reshapes) == 1 and not int_attribute(reshape, "allowzero", 0)
    copied = target[axis:] if plain else target
    # The channels are consecutive if nothing but channels, and all of them, follows the axis.
    channels = shape[axis:]
    if 0 in copied or not all(isinstance(size, int) for size in channels):
        return _UNKNOWN
    if target[axis] != count or math.prod(size for size in channels if isinstance(size, int)) != outputs:
        return _SCATTERED
    squeezes = [_squeeze(output, split_axis, len(shape), graph) for output in split.outputs]
    known = tuple(node for node in squeezes if node is not None)
    if len(known) != count:
        return Refused("a part keeps the axis that it was split along")
    moved = tuple(a - (a > axis) for a in perm if a != axis)
    return _Parts(
        sizes=(outputs // count,) * count,
        ends=tuple(node.outputs[0] for node in known),
        shape=tuple(size for at, size in enumerate(target) if at != axis),
        perm=None if transpose is None else moved,
        removed=(*known, split, *([] if transpose is None else [transpose]), *reversed(reshapes)),
    )


def _squeeze(output: ir.Value, axis: int, rank: int, graph: ir.Graph) -> ir.Node | None:
    """Return the Squeeze that drops the axis of size 1 and alone reads a part."""
    node = only_reader(output, graph)
    if node is None or node.op_type != "Squeeze" or len(node.inputs) < 2:
        return None
    axes = node.inputs[1]
    if axes is None or axes.const_value is None:
        return None
    return node if [int(a) % rank for a in constant_array(axes).reshape(-1)] == [axis] else None


def _scaling_nodes(last: ir.Node) -> list[ir.Node]:
    """Return the nodes that scale a weight, last one first: DequantizeLinear, or Mul and the Cast before it."""
    cast = last.inputs[0].producer() if last.op_type == "Mul" and last.inputs[0] is not None else None
    return [last] if cast is None else [last, cast]


def _typed(value: ir.Value, like: ir.Value, channels: int) -> ir.Value:
    """Give ``value`` the type of ``like``, and its shape except for the channels."""
    value.type = like.type
    shape: tuple[Dimension, ...] | None = dimensions(like)
    if shape is not None:
        value.shape = ir.Shape([*shape[:-1], channels])
    return value
