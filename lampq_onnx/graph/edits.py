"""Graph edits: new constants, replaced values, and passes that count their changes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import TYPE_KEY, UNIT_KEY
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.refusals import Outcome, Refusal, Refused


class CountingPass(ir.passes.InPlacePass):
    """A pass that reports how often it changed the graph, and where and why it did not.

    Attributes:
        purpose: what the pass does; the title of its refusals, if it records any.
        count: number of changes of the last call.
    """

    purpose: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._refusals: list[Refusal] = []

    @property
    def name(self) -> str:
        """Name of the pass in reports."""
        return type(self).__name__

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Places that the last call left unchanged although the pass is meant for them, in graph order."""
        return tuple(self._refusals)

    def settle(self, where: str, outcome: Outcome) -> int:
        """Record a refusal, and return the number of changes, 0 or 1.

        Args:
            where: layer or node; empty: the whole graph.
            outcome: what the rewrite did there.
        """
        if isinstance(outcome, Refused):
            self._refusals.append(Refusal(self.name, self.purpose, where, outcome.reason))
            return 0
        return int(outcome)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on a model."""
        self._refusals.clear()
        self.count = self.apply(model)
        return ir.passes.PassResult(model, modified=self.count > 0)

    @abc.abstractmethod
    def apply(self, model: ir.Model) -> int:
        """Change ``model`` in place and return the number of changes."""


def place(node: ir.Node) -> str:
    """Name a node for messages: its own name, or its operator and its result."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic] | np.generic) -> ir.Value:
    """Add a new initializer to the graph."""
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(array)))
    graph.register_initializer(value)
    return value


def shared_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Return a constant that layers share by its name, and add it if needed.

    Raises:
        LampqError: the graph has another tensor with that name.
    """
    there = graph.initializers.get(name)
    if there is None:
        return add_constant(graph, name, array)
    found = constant_array(there)
    if found.dtype != array.dtype or not np.array_equal(found, array):
        raise LampqError(f"the graph already has another tensor named {name}", hint="rename it")
    return there


def shape_constant(graph: ir.Graph, sizes: Sequence[int]) -> ir.Value:
    """Return the shared constant for a target shape of Reshapes."""
    return shared_constant(graph, f"lampq.shape.{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))


def unused(name: str, taken: set[str]) -> str:
    """Return ``name``, with a number appended if it is taken, and mark it as taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    taken.add(found)
    return found


REPLACED, LIFTED = ".replaced", ".lifted"
"""Ends of the names of values that another one stands for, and that have a dimension more than in the float file."""


def move_annotation(old: ir.Node, new: ir.Node) -> None:
    """Make ``new`` the node that stands for the layer of ``old``."""
    new.name = old.name
    for key in (UNIT_KEY, TYPE_KEY):
        if key in old.metadata_props:
            new.metadata_props[key] = old.metadata_props[key]


def float_name(value: ir.Value) -> str:
    """Return the name that a value has in the float file, also if a pass has replaced it or given it a dimension."""
    return (value.name or "").removesuffix(LIFTED).removesuffix(REPLACED)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Replace ``old`` by ``new`` for all readers and as graph output, under the old name.

    Graph outputs keep the shape that the model declares.
    """
    name, kind, shape, declared = old.name, old.type, old.shape, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}{REPLACED}"
    new.name, new.type = name, kind
    if new.shape is None or (declared and shape is not None):
        new.shape = shape
