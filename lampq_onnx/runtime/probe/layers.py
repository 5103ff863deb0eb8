"""Make single layers of a graph into separate models, in float and in quantized forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import GraphLayer
from lampq_onnx.graph.nodes import int_attribute
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.targets import Packing, Target

RANGE = ActivationRange(low=-4.0, high=4.0)
"""Range of the timed inputs, which are standard normal."""

_LAYER = "layer"


@dataclass(frozen=True)
class LayerShape:
    """Everything that decides the time of a layer.

    Attributes:
        operator: MatMul, Gemm or Conv.
        input: shape of the input without the batch.
        weight: shape of the weight as stored.
        bias: whether there is a bias.
        strides: strides of a Conv.
        transposed: whether a Gemm transposes its weight.
    """

    operator: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool
    strides: tuple[int, ...] = ()
    transposed: bool = False

    @classmethod
    def of(cls, layer: GraphLayer) -> LayerShape:
        """Read the shape of a layer from its graph.

        Raises:
            LampqError: the graph does not say how large the layer's input is.
        """
        shape = layer.input.shape
        sizes = None if shape is None else tuple(shape)[1:]
        if sizes is None or not all(isinstance(size, int) for size in sizes) or layer.weight.shape is None:
            raise LampqError(
                f"the graph does not say how large the input of layer {layer.name} is",
                hint="probe a float.onnx that lampq-onnx wrote, which holds all shapes",
            )
        strides = layer.node.attributes.get("strides")
        return cls(
            operator=layer.node.op_type,
            input=tuple(int(size) for size in sizes if isinstance(size, int)),
            weight=tuple(int(size) for size in layer.weight.shape if isinstance(size, int)),
            bias=layer.bias is not None,
            strides=tuple(strides.as_ints()) if strides is not None else (),
            transposed=layer.node.op_type == "Gemm" and bool(int_attribute(layer.node, "transB", 0)),
        )

    @property
    def name(self) -> str:
        """Key of the shape in a latency table."""
        parts = [self.operator, "x".join(map(str, self.input)), "by", "x".join(map(str, self.weight))]
        parts += ["transposed"] * self.transposed + ["bias"] * self.bias
        parts += [f"stride {self.strides[0]}"] if self.strides else []
        return " ".join(parts)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.weight[0] if self.operator == "Conv" or self.transposed else self.weight[1]

    def model(self, opset: int) -> ir.Model:
        """Make a model of the float layer alone, with random weights."""
        rng = np.random.default_rng(0)
        weight = rng.normal(size=self.weight).astype(np.float32)
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("batch", *self.input)))
        constants = [_constant("layer.weight", weight)]
        if self.bias:
            constants.append(_constant("layer.bias", rng.normal(size=self.outputs).astype(np.float32)))
        attributes: dict[str, int | tuple[int, ...]] = {}
        if self.strides:
            attributes["strides"] = self.strides
        if self.transposed:
            attributes["transB"] = 1
        if self.operator == "MatMul":
            nodes = [ir.node("MatMul", [x, constants[0]], name=_LAYER)]
            if self.bias:
                nodes.append(ir.node("Add", [nodes[0].outputs[0], constants[1]], name="bias"))
        else:
            nodes = [ir.node(self.operator, [x, *constants], attributes, name=_LAYER)]
        y = nodes[-1].outputs[0]
        y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
        if self.operator == "MatMul":
            y.shape = ir.Shape(("batch", *self.input[:-1], self.outputs))
        graph = ir.Graph([x], [y], nodes=nodes, initializers=constants, opset_imports={"": opset}, name="layer")
        return ir.Model(graph, ir_version=10)


def layer_bytes(shape: LayerShape, opset: int, target: Target, form: tuple[int, int, Packing] | None) -> bytes:
    """Serialize a model of the layer, in float or with the given widths and storage."""
    model = shape.model(opset)
    if form is not None:
        weight_bits, activation_bits, storage = form
        plan = BitPlan(layers={_LAYER: layer_plan(weight_bits, activation_bits)})
        matrix = _matrix(shape, model)
        model = convert_model(
            model, plan, packing=storage, target=target, weights={_LAYER: plain_weight(matrix, weight_bits)}
        ).model
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def layer_plan(weight_bits: int, activation_bits: int) -> LayerPlan:
    """Make a plan entry with these widths and a range that fits standard normal inputs."""
    quantized = activation_bits != FLOAT_BITS
    return LayerPlan(
        weight_bits=weight_bits, activation_bits=activation_bits, activation_range=RANGE if quantized else None
    )


def plain_weight(matrix: npt.NDArray[np.float32], bits: int) -> QuantizedWeight:
    """Round by min-max: the time of a layer does not depend on how well it is rounded."""
    grid = Grid.MID_TREAD
    largest = np.maximum(np.abs(matrix).max(axis=1), np.finfo(np.float32).tiny)
    scale = (largest / grid.top(bits)).astype(np.float32)
    return QuantizedWeight(codes=grid.codes_of(matrix / scale[:, None], bits), scale=scale, bits=bits, grid=grid)


def _matrix(shape: LayerShape, model: ir.Model) -> npt.NDArray[np.float32]:
    tensor = model.graph.initializers["layer.weight"].const_value
    assert tensor is not None
    values = np.asarray(tensor.numpy(), np.float32)
    if shape.operator == "Conv":
        return values.reshape(values.shape[0], -1)
    return np.ascontiguousarray(values if shape.transposed else values.T)


def _constant(name: str, array: npt.NDArray[np.float32]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
