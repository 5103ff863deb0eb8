"""Compute in float16, and in float32 where float16 overflows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.converter.passes.select_early import SELECTED
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import CountingPass, float_name, place, unused
from lampq_onnx.graph.float_types import TYPE_ATTRIBUTES, change_tensors
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.nodes import users
from lampq_onnx.quantization.fitting import LARGEST_HALF, SMALLEST_HALF

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT

MOVES = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that write the numbers that they read."""

_HALF_TEXT = "tensor(float16)"


class ToFloat16(CountingPass):
    """Bring the numbers of a float32 graph to float16.

    1. A node computes in float32 if it reads or writes a value of ``wide`` or a constant that overflows, or if its
       operator has no float16 in the standard. All other nodes compute in float16.
    2. What is computed from constants alone stays in float32, because runtimes do it when they load the file, except
       DequantizeLinear, which they join with its reader.
    3. The product of a layer goes with the Add of its bias, and a DequantizeLinear with its readers.
    4. Where both kinds meet, a Cast stands. Readers of the same value share it.
    5. Inputs and outputs of the graph keep their types.
    6. An operand that the standard wants in float32, like the scales of Resize, stays float32.
    7. What a Reshape or Transpose in float32 reads was written in float32: passes may have left the name of a value of
       ``wide`` to the last of several operators that move it.
    8. Constants that float16 would round to zero become its smallest number, since others may be divided by them.

    Args:
        wide: names of values that overflow in float16, or that have to be computed in float32 for another reason.

    Attributes:
        count: number of nodes that compute in float16.
    """

    purpose = "float16"

    def __init__(self, wide: Collection[str] = ()) -> None:
        super().__init__()
        self._wide = frozenset(wide)
        self._moved: set[ir.Value] = set()

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes.

        Raises:
            LampqError: the graph has inner graphs, or the type of a value is not known.
        """
        if any(True for _ in model.graph.subgraphs()):
            raise LampqError("a graph with If, Loop or Scan cannot be brought to float16", hint="use another --target")
        known = {value: (value.type, value.shape) for node in model.graph for value in node.outputs}
        common_passes.ShapeInferencePass()(model)
        untyped = next((place(n) for n in model.graph for v in n.outputs if v.name and v.dtype is None), None)
        if untyped is not None:
            raise LampqError(
                f"the type of what {untyped} computes is not known, so it cannot be brought to float16",
                hint="use another --target, or export the model with standard operators only",
            )
        opsets = model.opset_imports
        full, self._moved = _from_constants(model.graph), set()
        # Readers are settled before what they read.
        for node in reversed(list(model.graph)):
            if _floats(node) and node not in full and not self._fits(node, opsets.get(node.domain, 1), full):
                full.add(node)
            if node.op_type in MOVES and node in full and node.inputs[0] is not None:
                self._moved.add(node.inputs[0])
        half = [node for node in model.graph if _floats(node) and node not in full]
        _Types(model.graph).settle(half, full, opsets)
        for value, (kind, shape) in known.items():
            if kind is None and shape is None:  # what was inferred would only take bytes
                value.shape = None
                value.type = None
        return len(half)

    def _is_wide(self, value: ir.Value) -> bool:
        """Whether a value overflows, by its name in the float file or by what moves it."""
        return float_name(value).removesuffix(SELECTED) in self._wide or value in self._moved

    def _fits(self, node: ir.Node, opset: int, full: Collection[ir.Node]) -> bool:
        """Whether a node can compute in float16."""
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == FULL]
        if any(self._is_wide(value) or _overflows(value) for value in values):
            return False
        if node.domain not in ("", "ai.onnx"):
            return False
        readers = users(node.outputs[0])
        if node.op_type == "DequantizeLinear" and readers and all(reader in full for reader in readers):
            return False
        bias = bias_of(node) if UNIT_KEY in node.metadata_props and node.op_type == "MatMul" else None
        if bias is not None and bias.node in full:
            return False
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        takes = [_takes_half(schema, i) for i, v in enumerate(node.inputs) if v is not None and v.dtype == FULL]
        outputs = [i for i, value in enumerate(node.outputs) if value.dtype == FULL]
        writes = [_HALF_TEXT in _types(schema, schema.outputs[min(i, len(schema.outputs) - 1)]) for i in outputs]
        return all(writes) and (any(takes) or not takes)


def _from_constants(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that compute from constants alone, without DequantizeLinear and what reads it."""
    found: set[ir.Node] = set()
    for node in graph:
        sources = [value for value in node.inputs if value is not None]
        known = [value.const_value is not None or value.producer() in found for value in sources]
        if known and all(known) and node.op_type != "DequantizeLinear":
            found.add(node)
    return found


class _Types:
    """Types of the values of a graph, and the Casts between them."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        names = (value.name for node in graph for value in (*node.inputs, *node.outputs) if value is not None)
        self._taken = {name for name in (*names, *graph.initializers) if name}

    def settle(self, half: Sequence[ir.Node], full: Collection[ir.Node], opsets: Mapping[str, int]) -> None:
        """Give each value its type, and each reader the type that it wants."""
        wanted: dict[tuple[ir.Node, int], ir.DataType] = {}
        for node in half:
            schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), "")
            for i, value in enumerate(node.inputs):
                if value is not None and value.dtype == FULL:
                    wanted[node, i] = HALF if _takes_half(schema, i) else FULL
        for node in full:
            wanted |= {(node, i): FULL for i, v in enumerate(node.inputs) if v is not None and v.dtype == FULL}
        outputs = [value for value in self._graph.outputs if value.dtype == FULL]
        for node in half:
            _to_half(node)
        for (node, i), dtype in wanted.items():
            value = node.inputs[i]
            assert value is not None
            if value.dtype != dtype:
                node.replace_input_with(i, self._cast(value, dtype))
        for value in outputs:
            if value.dtype == HALF:
                self._restore(value)
        self._graph.sort()

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self._casts:
            name = unused(f"{value.name}.{dtype.name.lower()}", self._taken)
            tensor = value.const_value
            if tensor is not None and value.is_initializer():
                array = _half(tensor.numpy()) if dtype == HALF else tensor.numpy().astype(dtype.numpy())
                self._casts[key] = ir.Value(
                    name=name, const_value=ir.tensor(array, name=name), type=ir.TensorType(dtype), shape=value.shape
                )
                self._graph.register_initializer(self._casts[key])
            else:
                cast = ir.node("Cast", [value], {"to": dtype.value}, name=name)
                result = cast.outputs[0]
                result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
                producer = value.producer()
                if producer is None:
                    self._graph.insert_before(self._graph[0], cast)
                else:
                    self._graph.insert_after(producer, cast)
                self._casts[key] = result
        return self._casts[key]

    def _restore(self, value: ir.Value) -> None:
        """Let an output of the graph have its own type and name again."""
        producer, name = value.producer(), value.name or ""
        assert producer is not None
        cast = ir.node("Cast", [value], {"to": FULL.value}, name=unused(f"{name}.cast", self._taken))
        new = cast.outputs[0]
        new.type, new.shape = ir.TensorType(FULL), value.shape
        self._graph.insert_after(producer, cast)
        outputs = self._graph.outputs
        for place_, output in enumerate(outputs):
            if output is value:
                outputs[place_] = new
        value.name = unused(f"{name}.float16", self._taken)
        new.name = name


def _to_half(node: ir.Node) -> None:
    """Let a node write float16."""
    for value in node.outputs:
        if value.dtype == FULL:
            value.type = ir.TensorType(HALF)
    change_tensors(node, (FULL,), _half)
    for name in TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.as_int() == FULL.value:
            node.attributes[name] = ir.AttrInt64(name, HALF.value)


def _half(array: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Round to float16; numbers that are not zero stay apart from zero."""
    found = array.astype(np.float16)
    lost = (found == 0) & (array != 0)
    return np.where(lost, np.copysign(SMALLEST_HALF, array), found).astype(np.float16)


def _floats(node: ir.Node) -> bool:
    """Whether a node reads or writes float32."""
    return any(value is not None and value.dtype == FULL for value in (*node.inputs, *node.outputs))


def _overflows(value: ir.Value) -> bool:
    """Whether a constant has finite numbers that are too large."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != FULL:
        return False
    array = tensor.numpy()
    return bool((np.abs(array[np.isfinite(array)]) > LARGEST_HALF).any())


def _takes_half(schema: onnx.defs.OpSchema, place_: int) -> bool:
    """Whether an operator may read float16 at a place; the last parameter may stand for many."""
    return _HALF_TEXT in _types(schema, schema.inputs[min(place_, len(schema.inputs) - 1)])


def _types(schema: onnx.defs.OpSchema, parameter: onnx.defs.OpSchema.FormalParameter) -> Iterator[str]:
    """List the types of a parameter of an operator."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == parameter.type_str:
            return iter(constraint.allowed_type_strs)
    return iter((parameter.type_str,))
