"""`OnnxSource`: the graph of a model that came as an ONNX file, its layers, and how it is written again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch

from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.frontend.shared.factor import ChannelFactor
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.keys import MODULE_KEY
from lampq_onnx.graph.layers import GraphLayer
from lampq_onnx.graph.nodes import int_attribute


@dataclass(frozen=True)
class OnnxSource:
    """The graph that a module was built from.

    Attributes:
        model: the graph in normal form; never changed. Nodes that modules compute have a key under `MODULE_KEY`.
        layers: its linear layers with their final names.
        modules: key -> Linear, Conv2d or LayerNorm.
        skipped: layers that stay in float -> reason.
        changes: change made to bring the file into normal form -> number of times.
        not_done: changes that were not made although a place for them was found, with the reason and the places.
        parity: relative difference (L2) between the module's outputs and onnxruntime's.
    """

    model: ir.Model
    layers: tuple[GraphLayer, ...]
    modules: Mapping[str, torch.nn.Module]
    skipped: Mapping[str, str]
    changes: Mapping[str, int] = field(default_factory=dict)
    not_done: tuple[NotDone, ...] = ()
    parity: float = 0.0

    def module_of(self, layer: GraphLayer) -> torch.nn.Module | None:
        """The module that computes a layer in PyTorch, if there is one."""
        return self.modules.get(layer.node.metadata_props.get(MODULE_KEY, ""))

    def write(self) -> ir.Model:
        """The graph with the modules' current weights, and a Mul for every module whose input is scaled by a hook."""
        model = self.model.clone()
        graph = model.graph
        for node in list(graph):
            module = self.modules.get(node.metadata_props.pop(MODULE_KEY, ""))
            if module is None:
                continue
            write_module(graph, node, module)
        common_passes.RemoveUnusedNodesPass()(model)
        return model


def write_module(graph: ir.Graph, node: ir.Node, module: torch.nn.Module) -> None:
    """Write the current weights of a layer or LayerNorm to its node, and a Mul for every hook that scales its input."""
    if isinstance(module, torch.nn.LayerNorm):
        _replace(graph, node, 1, _array(module.weight), "scale")
        if module.bias is not None:
            _replace(graph, node, 2, _array(module.bias), "bias")
    else:
        _write_layer(graph, node, module)
    for factor in input_factors(module):
        value = add_constant(graph, f"{node.name}.input.factor", _array(factor))
        product = ir.node("Mul", [node.inputs[0], value], name=f"{node.name}.input.multiply")
        graph.insert_before(node, product)
        node.replace_input_with(0, product.outputs[0])


def input_factors(module: torch.nn.Module) -> list[torch.Tensor]:
    """Factors that hooks apply to a layer's input, in order."""
    return [hook.factor for hook in module._forward_pre_hooks.values() if isinstance(hook, ChannelFactor)]


def _write_layer(graph: ir.Graph, node: ir.Node, module: torch.nn.Module) -> None:
    """Write weight and bias; on a processor the graph's constants are views of the module's memory, not copies."""
    weight = _array(module._parameters["weight"])
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not int_attribute(node, "transB", 0)):
        weight = weight.T
    _replace(graph, node, 1, weight, "weight")
    bias, added = module._parameters.get("bias"), bias_of(node)
    if bias is None:
        return
    assert added is not None  # the module has a bias because the layer has one
    if not np.array_equal(added.vector(len(bias)), _array(bias)):
        _replace(graph, added.node, added.position, _array(bias), "bias", owner=node.name or "")


def _replace(
    graph: ir.Graph, node: ir.Node, position: int, array: npt.NDArray[np.float32], what: str, owner: str = ""
) -> None:
    """Give one node its own constant if the value changed; other nodes may share the old constant."""
    old = node.inputs[position]
    assert old is not None
    assert old.const_value is not None
    before = np.asarray(old.const_value.numpy())
    if before.size == array.size and np.array_equal(before.reshape(array.shape), array):
        return
    value = add_constant(graph, f"{owner or node.name}.equalized.{what}", array)
    node.replace_input_with(position, value)


def _array(value: torch.Tensor | None) -> npt.NDArray[np.float32]:
    assert value is not None
    return value.detach().float().cpu().numpy()
