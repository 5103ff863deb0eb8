"""Writes changed weights into a graph that was exported before: much faster than exporting again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir.passes.common as common_passes
import torch

from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import Exported
from lampq_onnx.frontend.shared.onnx_source import write_module
from lampq_onnx.graph.keys import UNIT_KEY


def refreshed(exported: Exported, loaded: LoadedModel, changed: Iterable[torch.nn.Module]) -> Exported:
    """The graph with the current weights of the changed modules, and a Mul where a hook scales a layer's input.

    If a changed module is not found in the graph, the model is exported again.

    Args:
        exported: an export of the same model with other weights.
        loaded: the model.
        changed: modules whose weights, biases or hooks changed: layers and LayerNorms.

    Raises:
        LampqError: see `export_model`.
    """
    if loaded.source is not None:
        return export_model(loaded)
    wanted = {id(module) for module in changed}
    layers = {layer.name: layer.module for layer in exported.layers}
    model = exported.model.clone()
    for node in list(model.graph):
        unit = node.metadata_props.get(UNIT_KEY)
        module = exported.norms.get(node.name or "") if unit is None else layers.get(unit)
        if module is not None and id(module) in wanted:
            write_module(model.graph, node, module)
            wanted.discard(id(module))
    if wanted:
        return export_model(loaded)
    common_passes.RemoveUnusedNodesPass()(model)
    return replace(exported, model=model)
