"""MatMul + Add -> Gemm, so that onnxruntime's integer kernel adds the bias."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.passes.base import INTEGER_KERNEL_BITS, LayerPass
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import add_constant, move_annotation, shape_constant, shared_constant, take_over, unused
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import Dimension, dimensions
from lampq_onnx.targets import Target

LARGEST_BIAS = 2**30
"""Largest bias in steps of input scale times weight scale; it is added to sums of products in int32."""


class BiasInGemm(LayerPass[LayerFacts]):
    """Let the integer kernel of a layer add its bias, if that saves a pass over the layer's result.

    1. x [n, ..., k] -> Reshape [-1, k] -> Gemm with the bias in int32, in units of input scale times weight scale ->
       Reshape [-1, ..., outputs]. Layers that read the same x share the first Reshape, and an existing Reshape after
       the layer is used. Zero points are written even if they are zero: without them onnxruntime makes no QGemm, and
       the layer would run in float.
    2. That moves the bias by up to half a unit, which is half the effect of one input that is one level off. Narrow
       inputs, whose levels are far apart, keep the Add. Of a bias that is zero, one channel gets one unit: OpenVINO
       takes a bias of zeros away, and then refuses the Reshape behind the Gemm if there are more tokens than channels
       (2026.4).
    3. These also keep the Add: results of one row per image; layers whose sizes apart from the batch are unknown;
       biases that int32 does not hold in these units; layers in float.
    4. GELU after such a layer adds no bias on its way. onnxruntime's kernel without a bias is faster by more than that
       (docs/runtime/passes.md).

    Args:
        parameters: layer -> what the pass must know about it.
        target: see `Target.gemm_bias`.
    """

    purpose = "bias added by the integer kernel"

    def __init__(self, parameters: Mapping[str, LayerFacts], target: Target) -> None:
        super().__init__(parameters)
        self._target = target
        self._rows: dict[ir.Node, ir.Value] = {}

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        if not self._target.gemm_bias:
            return self.settle("", Refused(f"{self._target.name} has no kernel that is faster with it"))
        self._rows.clear()
        return sum(self.settle(name, self._rewrite(model.graph, name, node)) for name, node in self.layers(model))

    def _rewrite(self, graph: ir.Graph, name: str, node: ir.Node) -> Outcome:
        layer = self.parameters[name]
        if node.op_type == "Gemm":
            return False  # done
        if layer.input_scale is None or layer.input_bits > INTEGER_KERNEL_BITS:
            return Refused("the layer runs in float: its input has no 8 bits")
        if node.op_type != "MatMul":
            return Refused(f"the layer is a {node.op_type}, and only a MatMul can become a Gemm")
        if layer.input_bits < INTEGER_KERNEL_BITS:
            return Refused("its input has fewer than 8 bits, whose steps are too coarse for a bias in whole steps")
        source, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
        if source is None or weight is None or weight.inputs[1] is None:
            return Refused("its input or its weight is not read through DequantizeLinear")
        channels, inputs = layer.outputs, layer.inputs
        # The scales as onnxruntime reads them from the file; they may belong to a part of the layer (`ProductPerPart`).
        weight_scale = constant_array(weight.inputs[1]).astype(np.float32)
        outputs = weight_scale.size
        found = bias_of(node, outputs)
        if found is None:
            return Refused("it has no bias of one number per output channel that only its own result is added to")
        add, sizes = found.node, dimensions(found.node.outputs[0])
        kept = _reason_to_keep(sizes)
        if kept is not None or sizes is None:
            return kept or False
        bias = _in_steps(found.vector(outputs), np.float32(layer.input_scale) * weight_scale)
        if bias is None:
            return Refused("its bias does not fit into int32 in steps of input scale times weight scale")
        if len(weight.inputs) < 3:
            weight.resize_inputs(3)
            zero = shared_constant(graph, f"lampq.zero.int8.{outputs}", np.zeros(outputs, np.int8))
            weight.replace_input_with(2, zero)
        # Most nodes have no name, and values have short ones: in a file of few bits, names take as many bytes as
        # weights.
        if source not in self._rows:
            rows = ir.node("Reshape", [source.inputs[0], shape_constant(graph, (-1, inputs))], name="")
            data = ir.node("DequantizeLinear", [rows.outputs[0], *source.inputs[1:]], name="")
            graph.insert_before(node, [rows, data])
            self._rows[source] = data.outputs[0]
        # Folded when the file is loaded; the product takes less room in the file than its result.
        step = ir.node("Mul", [source.inputs[1], weight.inputs[1]], name="")
        label = name if outputs == channels else node.name
        integers = add_constant(graph, unused(f"{label}.bias.quantized", set(graph.initializers)), bias)
        zeros = shared_constant(graph, f"lampq.zero.int32.{outputs}", np.zeros(outputs, np.int32))
        offset = ir.node("DequantizeLinear", [integers, step.outputs[0], zeros], {"axis": 0}, name="")
        product = ir.node(
            "Gemm",
            [self._rows[source], weight.outputs[0], offset.outputs[0]],
            # onnxruntime reads the value of beta, so it must be present.
            {"alpha": 1.0, "beta": 1.0},
        )
        move_annotation(node, product)
        graph.insert_before(node, [step, offset, product])
        reshape = _next_reshape(add.outputs[0], graph)
        if reshape is None:
            shape = shape_constant(graph, (-1, *(int(size) for size in sizes[1:])))
            reshape = ir.node("Reshape", [product.outputs[0], shape], name="")
            graph.insert_before(node, reshape)
            take_over(add.outputs[0], reshape.outputs[0])
        else:
            reshape.replace_input_with(0, product.outputs[0])
        graph.remove([add, node], safe=True)
        return True


def _reason_to_keep(sizes: tuple[Dimension, ...] | None) -> Refused | None:
    """Return why a bias is better left in its Add, or None."""
    if sizes is None or not all(isinstance(size, int) and size > 0 for size in sizes[1:]):
        return Refused("the sizes of its result, apart from the batch, are not known")
    if math.prod(size for size in sizes[1:-1] if isinstance(size, int)) == 1:
        return Refused("its result has one row per image, for which the Add costs nothing")
    return None


def _next_reshape(value: ir.Value, graph: ir.Graph) -> ir.Node | None:
    """Return the Reshape that alone reads ``value`` and makes the same of its rows."""
    reader = only_reader(value, graph)
    if reader is None or reader.op_type != "Reshape":
        return None
    shape = reader.inputs[1]
    # A 0 copies a dimension of what the Reshape reads.
    return reader if shape is not None and shape.const_value is not None and constant_array(shape).all() else None


def _in_steps(row: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.int32] | None:
    """Return the bias in steps of ``scale``, (outputs,) int32; None if int32 does not hold it."""
    if not (scale > 0).all():
        return None
    steps = np.rint(row.astype(np.float64) / scale)
    if not (np.abs(steps) < LARGEST_BIAS).all():
        return None
    if not steps.any():
        steps[0] = 1  # a bias of zeros would be taken away
    return steps.astype(np.int32)
