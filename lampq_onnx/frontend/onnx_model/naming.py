"""Names the layers of an ONNX file, and records why some of them stay in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch

from lampq_onnx.frontend.onnx_model.model import Built
from lampq_onnx.frontend.shared.onnx_source import OnnxSource
from lampq_onnx.graph.keys import MODULE_KEY
from lampq_onnx.graph.layers import GraphLayer, annotate, find_layers, module_path
from lampq_onnx.graph.other_weights import other_weights
from lampq_onnx.graph.patches import OVERLAPPING, overlaps


def source_of(model: ir.Model, built: Built) -> OnnxSource:
    """Name the layers in the graph, and record for all other weights why they are not quantized."""
    modules: dict[str, torch.nn.Module] = {}
    for node, module in built.layers.items():
        key = str(len(modules))
        node.metadata_props[MODULE_KEY] = key
        modules[key] = module
    skipped: dict[str, str] = {}
    model_layers: list[GraphLayer] = []
    graph_layers = _named(find_layers(model.graph), built.depth)
    for layer in graph_layers:
        if layer.node not in built.layers:
            skipped[layer.name] = "it does not depend on the image, or its bias or padding is of an unusual form"
        elif overlaps(layer):
            skipped[layer.name] = OVERLAPPING
        else:
            annotate(layer, layer.name)
            model_layers.append(layer)
    skipped |= other_weights(model.graph, graph_layers)
    return OnnxSource(model, tuple(model_layers), modules, skipped)


def _named(layers: Sequence[GraphLayer], depth: Mapping[ir.Node, int]) -> list[GraphLayer]:
    """Layers with unique names: from their weights or modules, otherwise from their place in the model."""
    found = []
    for layer in layers:
        if _tells(layer):
            name = module_path(layer.name)
        elif layer.node in depth:
            name = f"blocks.{depth[layer.node]}.{layer.type}"
        else:
            name = layer.type
        found.append(replace(layer, name=name))
    taken: set[str] = set()
    unique = []
    for layer in found:
        name, number = layer.name, 2
        while name in taken:
            name, number = f"{layer.name}.{number}", number + 1
        taken.add(name)
        unique.append(replace(layer, name=name))
    return unique


def _tells(layer: GraphLayer) -> bool:
    """Whether a name says where in the model its layer is, and is not just a number."""
    bias = layer.bias.name if layer.bias is not None else None
    parameter = any(own == f"{layer.name}.{what}" for own, what in ((layer.weight.name, "weight"), (bias, "bias")))
    if layer.name.startswith("/"):
        return bool(module_path(layer.name))
    return parameter or "/" in layer.name or "." in layer.name.replace("onnx::", "")
