"""Base of the converter's passes."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.sites import TYPE_KEY, UNIT_KEY, constant_array, users
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight

INTEGER_KERNEL_BITS = 8
"""Widest inputs of onnxruntime's integer kernels; layers with wider ones run in float."""


@dataclass(frozen=True)
class LayerParameters:
    """Numbers that one layer is quantized with.

    Attributes:
        weight: integers, scales and, where the rounding brings one, the bias.
        activation: None leaves the input in float.
    """

    weight: QuantizedWeight
    activation: ActivationQuantizer | None


Parameters = Mapping[str, LayerParameters]
"""Unit name -> numbers."""


class CountingPass(ir.passes.InPlacePass):
    """A pass that says how often it fired.

    Attributes:
        count: changes of the last call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        self.count = self.apply(model)
        return ir.passes.PassResult(model, modified=self.count > 0)

    @abc.abstractmethod
    def apply(self, model: ir.Model) -> int:
        """Change ``model`` in place and return the number of changes."""


class LayerPass(CountingPass):
    """A pass over the layers that are to be quantized.

    Attributes:
        parameters: unit -> its numbers.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self.parameters = parameters

    def units(self, model: ir.Model) -> list[tuple[str, ir.Node]]:
        """Nodes of the layers that are to be quantized, in graph order."""
        named = ((node.metadata_props.get(UNIT_KEY, ""), node) for node in model.graph)
        return [(name, node) for name, node in named if name in self.parameters]


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic] | np.generic) -> ir.Value:
    """A new initializer."""
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(array)))
    graph.register_initializer(value)
    return value


def shared_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A constant that layers share by its name.

    Raises:
        LampqError: the graph has another one of that name.
    """
    there = graph.initializers.get(name)
    if there is None:
        return add_constant(graph, name, array)
    found = constant_array(there)
    if found.dtype != array.dtype or not np.array_equal(found, array):
        raise LampqError(f"the graph has a tensor {name} of its own", hint="rename it")
    return there


def shape_constant(graph: ir.Graph, sizes: Sequence[int]) -> ir.Value:
    """A target shape of Reshapes."""
    return shared_constant(graph, f"lampq.shape.{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))


def unused(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it where it is taken; it is taken from now on."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    taken.add(found)
    return found


def only_reader(value: ir.Value, graph: ir.Graph) -> ir.Node | None:
    """The standard operator of ``graph`` that alone reads ``value``."""
    readers = users(value)
    if len(readers) != 1 or value.is_graph_output() or readers[0].graph is not graph:
        return None
    return readers[0] if readers[0].domain in ("", "ai.onnx") else None


def is_bias(value: ir.Value, outputs: int) -> bool:
    """Whether ``value`` is a constant that is the same for every row of a layer's result."""
    if value.const_value is None:
        return False
    shape = constant_array(value).shape
    return math.prod(shape) == 1 or (math.prod(shape) == outputs == shape[-1])


def added_row(node: ir.Node, outputs: int, graph: ir.Graph) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads a product, and the constant that it adds to every row of it."""
    product = node.outputs[0]
    add = only_reader(product, graph)
    if add is None or add.op_type != "Add":
        return None
    row = next((value for value in add.inputs if value is not None and value is not product), None)
    return None if row is None or not is_bias(row, outputs) else (add, row)


def move_annotation(old: ir.Node, new: ir.Node) -> None:
    """Make ``new`` the node that stands for the unit of ``old``."""
    new.name = old.name
    for key in (UNIT_KEY, TYPE_KEY):
        if key in old.metadata_props:
            new.metadata_props[key] = old.metadata_props[key]


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be read wherever ``old`` was, graph outputs included, under the old name.

    Graph outputs keep the shape that the model declares.
    """
    name, kind, shape, declared = old.name, old.type, old.shape, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}.replaced"
    new.name, new.type = name, kind
    if new.shape is None or (declared and shape is not None):
        new.shape = shape
