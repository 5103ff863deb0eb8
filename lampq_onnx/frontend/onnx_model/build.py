"""Turns the nodes of an ONNX graph into steps and modules for `OnnxModel`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.graph import Step
from lampq_onnx.frontend.onnx_model.operators import OPERATORS
from lampq_onnx.graph.layers import GraphLayer
from lampq_onnx.graph.nodes import constant_array, int_attribute


@dataclass(frozen=True)
class Layers:
    """Modules that compute nodes of the graph.

    Attributes:
        modules: node -> module.
        absorbed: node that adds a bias -> node of the layer whose module includes that bias.
    """

    modules: Mapping[ir.Node, torch.nn.Module]
    absorbed: Mapping[ir.Node, ir.Node]


def layers_of(graph: ir.Graph, layers: Sequence[GraphLayer]) -> Layers:
    """Create Linear and Conv2d modules for the layers, and LayerNorm modules for normalizations over the last axis."""
    modules: dict[ir.Node, torch.nn.Module] = {}
    absorbed: dict[ir.Node, ir.Node] = {}
    for layer in layers:
        module = _conv(layer) if layer.node.op_type == "Conv" else _linear(layer)
        if module is None:
            continue
        modules[layer.node] = module
        if layer.bias_node is not None and module._parameters.get("bias") is not None:
            absorbed[layer.bias_node] = layer.node
    for node in graph:
        if node.op_type == "LayerNormalization":
            norm = _layer_norm(node)
            if norm is not None:
                modules[node] = norm
    return Layers(modules, absorbed)


def steps_of(graph: ir.Graph, layers: Layers) -> tuple[list[Step], dict[str, torch.Tensor], dict[str, torch.nn.Module]]:
    """Turn every node into a step.

    Returns:
        The steps in order, constants by value name, and modules by the name that their step calls.

    Raises:
        LampqError: an operator, or a form of it, is not supported in PyTorch here.
    """
    steps: list[Step] = []
    modules: dict[str, torch.nn.Module] = {}
    for node in graph:
        if node in layers.absorbed:
            continue
        name = f"layer{len(modules)}" if node in layers.modules else ""
        if name:
            modules[name] = layers.modules[node]
            result = next((add.outputs[0] for add, of in layers.absorbed.items() if of is node), node.outputs[0])
            steps.append(Step(_label(node), node.op_type, (_name(node.inputs[0]),), (_name(result),), name))
        else:
            inputs = tuple(_name(value) for value in node.inputs)
            outputs = tuple(_name(value) for value in node.outputs)
            steps.append(Step(_label(node), node.op_type, inputs, outputs, _function(node)))
    constants = {
        _name(value): torch.from_numpy(np.array(constant_array(value)))
        for value in graph.initializers.values()
        if value.const_value is not None
    }
    return steps, constants, modules


def _label(node: ir.Node) -> str:
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def _function(node: ir.Node) -> Any:
    """The function of the node's operator, with its attributes bound.

    Raises:
        LampqError: the operator, its attributes or its outputs are not supported.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise LampqError(
            f"the operator {kind} (node {_label(node)}) has no PyTorch counterpart here, and gradients need one",
            hint="export the model with standard ONNX operators, or quantize the PyTorch model itself",
        )
    function = OPERATORS[node.op_type]
    attributes = {key: _attribute(value) for key, value in node.attributes.items()}
    if node.op_type == "Split":
        attributes["num_outputs"] = len(node.outputs)
    try:
        inspect.signature(function).bind(*node.inputs, **attributes)
    except TypeError as error:
        raise LampqError(
            f"the operator {node.op_type} (node {_label(node)}) is not supported in this form: {error}"
        ) from error
    except ValueError:  # torch's own functions have no signature, and take no attributes
        if attributes:
            raise
    if node.op_type not in ("Split", "TopK") and any(value.uses() for value in node.outputs[1:]):
        raise LampqError(f"more than the first output of {node.op_type} (node {_label(node)}) is not supported")
    return partial(function, **attributes) if attributes else function


def _attribute(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return torch.from_numpy(np.array(attribute.as_tensor().numpy()))
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise LampqError(f"attribute {attribute.name} holds a graph of its own, which is not supported")
    return attribute.value


def _linear(layer: GraphLayer) -> torch.nn.Linear | None:
    node = layer.node
    if node.op_type == "Gemm" and any(
        node.attributes[key].as_float() != 1.0 for key in ("alpha", "beta") if key in node.attributes
    ):
        return None
    matrix = torch.from_numpy(layer.matrix())
    if len(node.inputs) > 2 and node.inputs[2] is not None and layer.bias is None:
        return None
    vector = layer.bias_vector()
    bias = None if vector is None else torch.from_numpy(vector)
    module = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
    module.weight = torch.nn.Parameter(matrix, requires_grad=False)
    if bias is not None:
        module.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
    return module


def _conv(layer: GraphLayer) -> torch.nn.Conv2d | None:
    node = layer.node
    attributes = {key: value.value for key, value in node.attributes.items()}
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or pads[:2] != pads[2:]:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and layer.bias is None:
        return None
    weight = torch.from_numpy(constant_array(layer.weight).astype(np.float32))
    outputs, inputs, height, width = weight.shape
    module = torch.nn.Conv2d(
        inputs,
        outputs,
        (height, width),
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=tuple(pads[:2]) if attributes.get("auto_pad", "NOTSET") == "NOTSET" else 0,
        dilation=tuple(attributes.get("dilations", (1, 1))),
        bias=layer.bias is not None,
        device="meta",
    )
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    vector = layer.bias_vector()
    if vector is not None:
        module.bias = torch.nn.Parameter(torch.from_numpy(vector).clone(), requires_grad=False)
    return module


def _layer_norm(node: ir.Node) -> torch.nn.LayerNorm | None:
    scale = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values = [value for value in (scale, bias) if value is not None]
    if any(value.const_value is None or len(value.const_value.shape) != 1 for value in values):
        return None
    # The scale's length is not compared with the last axis: LayerNorm refuses to run if they differ.
    rank = None if node.inputs[0] is None or node.inputs[0].shape is None else len(node.inputs[0].shape)
    axis = int_attribute(node, "axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return None
    assert scale is not None
    weight = torch.from_numpy(constant_array(scale).astype(np.float32))
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    module = torch.nn.LayerNorm(weight.shape[0], eps=epsilon, bias=bias is not None, device="meta")
    module.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        shift = torch.from_numpy(constant_array(bias).astype(np.float32))
        module.bias = torch.nn.Parameter(shift.clone(), requires_grad=False)
    return module
