"""MatMul -> Split becomes a product for each part, so that no result has to be taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import (
    LayerPass,
    Parameters,
    is_bias,
    move_annotation,
    shared_constant,
    take_over,
)
from lampq_onnx.converter.passes.fold_shapes import Dimension, dimensions
from lampq_onnx.converter.sites import UNIT_KEY, constant_array, int_attribute, users
from lampq_onnx.converter.storage import STORAGE_KEY
from lampq_onnx.targets import Target


class ProductPerPart(LayerPass):
    """Split the weights of a layer, which happens once, in the place of its result, which would at every run.

    1. MatMul -> Add -> Reshape [.., parts, ..] -> Transpose -> Split -> Squeeze, as exporters write queries, keys and
       values (with `SplitUnbind`), becomes MatMul -> Add -> Reshape -> Transpose for each part; likewise without the
       Transpose. MatMul -> Add -> Split along the last axis becomes MatMul -> Add for each part.
    2. The packed weights stay one tensor; a Split behind their unpacking is folded when the file is loaded. Scales and
       biases are cut here. Every output channel keeps its numbers, so that the results are the same to the bit.
    3. All products carry the unit's name; the first one, and what scales its weight, the rest of its annotation.
    4. Left as they are: parts of other places than consecutive output channels, and results that something else reads.

    Args:
        target: see `Target.part_products`.
    """

    def __init__(self, parameters: Parameters, target: Target) -> None:
        super().__init__(parameters)
        self._target = target

    def apply(self, model: ir.Model) -> int:
        """See the class."""
        if not self._target.part_products:
            return 0
        return sum(self._rewrite(model.graph, name, node) for name, node in self.units(model))

    def _rewrite(self, graph: ir.Graph, name: str, node: ir.Node) -> bool:
        scaling = node.inputs[1].producer() if node.inputs[1] is not None else None
        if node.op_type != "MatMul" or scaling is None:
            return False
        outputs = self.parameters[name].weight.codes.shape[0]
        bias = _bias(node, outputs)
        result = node.outputs[0] if bias is None else bias[0].outputs[0]
        found = _parts(result, outputs)
        if found is None:
            return False
        products = _products(graph, name, node, found.sizes)
        for index, (product, end) in enumerate(zip(products, found.ends, strict=True)):
            size = found.sizes[index]
            last = _typed(product.outputs[0], result, size)
            if bias is not None:
                add = ir.node("Add", [last, _cut(graph, bias[1], found.sizes, index)], name="")
                graph.insert_before(node, add)
                last = _typed(add.outputs[0], result, size)
            for move in found.moves(graph):
                move.replace_input_with(0, last)
                graph.insert_before(node, move)
                last = move.outputs[0]
            take_over(end, last)
        graph.remove(found.removed, safe=True)
        if bias is not None:
            graph.remove(bias[0], safe=True)
        graph.remove([node, *_scaling_nodes(scaling)], safe=True)
        return True


@dataclass(frozen=True)
class _Parts:
    """How a layer's result is taken apart.

    Attributes:
        sizes: output channels of each part.
        ends: the parts.
        shape: that each part gets by a Reshape; None: that of its product.
        perm: of the Transpose behind it.
        removed: nodes that take the result apart, last ones first.
    """

    sizes: tuple[int, ...]
    ends: tuple[ir.Value, ...]
    shape: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    removed: tuple[ir.Node, ...]

    def moves(self, graph: ir.Graph) -> list[ir.Node]:
        """New nodes for one part; the input of each is still to be set."""
        nodes = []
        if self.shape is not None:
            name = f"lampq.shape.{'x'.join(map(str, self.shape))}"
            shape = shared_constant(graph, name, np.array(self.shape, np.int64))
            nodes.append(ir.node("Reshape", [None, shape], name=""))
        if self.perm is not None:
            nodes.append(ir.node("Transpose", [None], {"perm": self.perm}, name=""))
        return nodes


def _bias(node: ir.Node, outputs: int) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads a product, and the constant row that it adds."""
    add = _only_reader(node.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    row = next((value for value in add.inputs if value is not None and value is not node.outputs[0]), None)
    return None if row is None or not is_bias(row, outputs) else (add, row)


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = users(value)
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _parts(result: ir.Value, outputs: int) -> _Parts | None:
    reader = _only_reader(result)
    if reader is None:
        return None
    if reader.op_type == "Split":
        return _along_channels(reader, result, outputs)
    reshapes = []
    while reader is not None and reader.op_type in ("Reshape", "Squeeze"):
        reshapes.append(reader)
        reader = _only_reader(reader.outputs[0])
    transpose = reader if reader is not None and reader.op_type == "Transpose" else None
    split = reader if transpose is None else _only_reader(transpose.outputs[0])
    if split is None or split.op_type != "Split" or not reshapes:
        return None
    return _along_new_axis(reshapes, transpose, split, outputs)


def _along_channels(split: ir.Node, result: ir.Value, outputs: int) -> _Parts | None:
    """Parts of a Split along the last axis."""
    shape = dimensions(result)
    if shape is None or int_attribute(split, "axis", 0) % len(shape) != len(shape) - 1:
        return None
    given = split.inputs[1] if len(split.inputs) > 1 else None
    if given is not None and given.const_value is not None:
        sizes = tuple(int(size) for size in constant_array(given))
    else:
        ends = [(dimensions(output) or (None,))[-1] for output in split.outputs]
        sizes = tuple(size for size in ends if isinstance(size, int))
    if len(sizes) != len(split.outputs) or sum(sizes) != outputs or 0 in sizes:
        return None
    return _Parts(sizes, tuple(split.outputs), None, None, (split,))


def _along_new_axis(
    reshapes: Sequence[ir.Node], transpose: ir.Node | None, split: ir.Node, outputs: int
) -> _Parts | None:
    """Parts of size 1 of an axis that the last of ``reshapes`` has made out of the channels."""
    reshape = reshapes[-1]
    shape = dimensions(reshape.outputs[0])
    wanted = reshape.inputs[1] if reshape.op_type == "Reshape" else None
    if shape is None or wanted is None or wanted.const_value is None:
        return None
    perm = tuple(range(len(shape)))
    if transpose is not None:
        if "perm" not in transpose.attributes:
            return None
        perm = tuple(int(axis) for axis in transpose.attributes["perm"].as_ints())
    split_axis = int_attribute(split, "axis", 0) % len(shape)
    axis = perm[split_axis]
    target = [int(size) for size in constant_array(wanted)]
    count = len(split.outputs)
    # A 0 copies the size at its position, which is another one without the axis and without earlier reshapes; or it is
    # the size.
    plain = len(reshapes) == 1 and not int_attribute(reshape, "allowzero", 0)
    copied = target[axis:] if plain else target
    # Consecutive channels: nothing but channels behind the axis, and all of them.
    channels = shape[axis:]
    if target[axis] != count or 0 in copied or not all(isinstance(size, int) for size in channels):
        return None
    if math.prod(size for size in channels if isinstance(size, int)) != outputs:
        return None
    squeezes = [_squeeze(output, split_axis, len(shape)) for output in split.outputs]
    known = tuple(node for node in squeezes if node is not None)
    if len(known) != count:
        return None
    moved = tuple(a - (a > axis) for a in perm if a != axis)
    return _Parts(
        sizes=(outputs // count,) * count,
        ends=tuple(node.outputs[0] for node in known),
        shape=tuple(size for at, size in enumerate(target) if at != axis),
        perm=None if transpose is None else moved,
        removed=(*known, split, *([] if transpose is None else [transpose]), *reversed(reshapes)),
    )


def _squeeze(output: ir.Value, axis: int, rank: int) -> ir.Node | None:
    """The Squeeze that drops the axis of size 1 and alone reads a part."""
    node = _only_reader(output)
    if node is None or node.op_type != "Squeeze" or len(node.inputs) < 2:
        return None
    axes = node.inputs[1]
    if axes is None or axes.const_value is None:
        return None
    return node if [int(a) % rank for a in constant_array(axes).reshape(-1)] == [axis] else None


def _scaling_nodes(last: ir.Node) -> list[ir.Node]:
    """DequantizeLinear, or Mul and the Cast before it (see `storage.scale_weight`)."""
    cast = last.inputs[0].producer() if last.op_type == "Mul" and last.inputs[0] is not None else None
    return [last] if cast is None else [last, cast]


def _products(graph: ir.Graph, name: str, node: ir.Node, sizes: Sequence[int]) -> list[ir.Node]:
    """A MatMul for each part, with what scales its weight; named and put before ``node``."""
    scaling = _scaling_nodes(node.inputs[1].producer())  # type: ignore[union-attr, arg-type]
    levels = scaling[-1].inputs[0]
    cuts = shared_constant(graph, f"lampq.parts.{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))
    split = ir.node("Split", [levels, cuts], {"axis": 1}, num_outputs=len(sizes), name="")
    graph.insert_before(node, split)
    products = []
    for index, part in enumerate(split.outputs):
        weight = part
        for old in reversed(scaling):
            constants = [_cut(graph, value, sizes, index) for value in old.inputs[1:] if value is not None]
            new = ir.node(old.op_type, [weight, *constants], dict(old.attributes), name="")
            graph.insert_before(node, new)
            weight = new.outputs[0]
        last = weight.producer()
        assert last is not None
        labels = scaling[0].metadata_props
        last.metadata_props.update(labels if index == 0 else {STORAGE_KEY: labels[STORAGE_KEY]})
        product = ir.node("MatMul", [node.inputs[0], weight])
        if index == 0:
            move_annotation(node, product)
        product.name = f"{name}.{index}"
        product.metadata_props[UNIT_KEY] = name
        graph.insert_before(node, product)
        products.append(product)
    return products


def _cut(graph: ir.Graph, value: ir.Value, sizes: Sequence[int], index: int) -> ir.Value:
    """One part of a constant with a number for each output channel; a single number stays."""
    array = constant_array(value)
    if array.size != sum(sizes):
        return value
    start = sum(sizes[:index])
    return shared_constant(graph, f"{value.name}.{index}", array.reshape(-1)[start : start + sizes[index]])


def _typed(value: ir.Value, like: ir.Value, channels: int) -> ir.Value:
    """``value`` with the type of ``like``, and its shape but for the channels."""
    value.type = like.type
    shape: tuple[Dimension, ...] | None = dimensions(like)
    if shape is not None:
        value.shape = ir.Shape([*shape[:-1], channels])
    return value
