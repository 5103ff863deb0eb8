"""Finds small parts of a graph between two values, and evaluates them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lampq_onnx.graph.nodes import users

MOST_NODES = 20

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """The nodes that compute ``result`` from ``source`` and constants alone.

    Attributes:
        source: input of the region.
        result: output of the region.
        nodes: in an order in which they can run; the last one computes ``result``.
        shared: whether something outside reads an inner value too, so that the nodes cannot be removed.
    """

    source: ir.Value
    result: ir.Value
    nodes: tuple[ir.Node, ...]
    shared: bool

    def branches(self) -> bool:
        """Whether a computed value is read more than once inside."""
        read = [v for node in self.nodes for v in node.inputs if v is not None and v.const_value is None]
        return len(read) > len(self.nodes)

    def constants(self) -> Iterator[Array]:
        """Iterate over the constants that the nodes read."""
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value.const_value is not None:
                    yield np.asarray(value.const_value.numpy())

    def evaluate(self, values: Array, opset: int) -> Array:
        """Compute ``result`` for ``source`` = ``values`` with onnx's reference implementation, in an opset."""
        read = [value for node in self.nodes for value in node.inputs if value is not None]
        kept = dict.fromkeys(value for value in read if value.const_value is not None)
        made = [node.outputs[0] for node in self.nodes]
        names = {value: f"v{i}" for i, value in enumerate([self.source, *kept, *made])}
        protos = []
        for node in self.nodes:
            proto = ir.to_proto(node)
            del proto.input[:], proto.output[:]
            proto.input.extend("" if value is None else names[value] for value in node.inputs)
            proto.output.append(names[node.outputs[0]])
            protos.append(proto)
        graph = onnx.helper.make_graph(
            protos,
            "region",
            [onnx.helper.make_tensor_value_info(names[self.source], onnx.TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor_value_info(names[self.result], onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.asarray(v.const_value.numpy()), names[v]) for v in kept if v.const_value],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        # A part may divide by zero for trial inputs; the caller checks the result.
        with np.errstate(all="ignore"):
            (found,) = ReferenceEvaluator(model).run(None, {names[self.source]: values})
        return np.asarray(found, dtype=np.float32)


def region(result: ir.Value, source: ir.Value, allowed: Collection[str]) -> Region | None:
    """Find the part of the graph between two values, made of the allowed operators.

    Returns:
        The region. None if it reads another value, contains another operator, or has more than `MOST_NODES` nodes.
    """
    nodes: dict[ir.Node, None] = {}
    front = [result]
    while front:
        value = front.pop()
        if value is source or value.const_value is not None:
            continue
        node = value.producer()
        if node is None or node.domain or node.op_type not in allowed or len(node.outputs) != 1:
            return None
        if node not in nodes:
            nodes[node] = None
            front.extend(v for v in node.inputs if v is not None)
        if len(nodes) > MOST_NODES:
            return None
    if not any(v is source for node in nodes for v in node.inputs):
        return None
    inner = [node.outputs[0] for node in nodes if node.outputs[0] is not result]
    shared = any(v.is_graph_output() or any(reader not in nodes for reader in users(v)) for v in inner)
    return Region(source, result, tuple(_ordered(list(nodes))), shared)


def _ordered(nodes: list[ir.Node]) -> list[ir.Node]:
    placed: list[ir.Node] = []
    left = list(nodes)
    inside = set(nodes)
    while left:
        ready = [n for n in left if all(v is None or v.producer() not in inside.difference(placed) for v in n.inputs)]
        placed += ready
        left = [n for n in left if n not in ready]
    return placed


def following(value: ir.Value, allowed: Collection[str], hops: int) -> list[ir.Value]:
    """Values computed from ``value`` by at most ``hops`` allowed nodes, nearest first."""
    found: dict[ir.Value, None] = {}
    front = [value]
    for _ in range(hops):
        front = [n.outputs[0] for v in front for n in users(v) if n.op_type in allowed and n.outputs[0] not in found]
        found |= dict.fromkeys(front)
    return list(found)


def preceding(value: ir.Value, allowed: Collection[str], hops: int) -> list[ir.Value]:
    """``value``, and the values it is computed from by at most ``hops`` allowed nodes, nearest first."""
    found: dict[ir.Value, None] = {value: None}
    front = [value]
    for _ in range(hops):
        nodes = [n for v in front if (n := v.producer()) is not None and n.op_type in allowed]
        front = [v for n in nodes for v in n.inputs if v is not None and v.const_value is None and v not in found]
        found |= dict.fromkeys(front)
    return list(found)
