"""Find nodes with weight matrices that are not linear layers, and say why they stay in float."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from lampq_onnx.graph.layers import GraphLayer, scope_path

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")


def other_weights(graph: ir.Graph, layers: Collection[GraphLayer]) -> dict[str, str]:
    """Map the name of each such module, or of its node, to the reason.

    Args:
        graph: the graph.
        layers: its linear layers.
    """
    linear = {layer.node for layer in layers}
    found: dict[str, str] = {}
    for node in graph:
        constant = [v is not None and v.const_value is not None and len(v.const_value.shape) > 1 for v in node.inputs]
        if node.op_type not in _PRODUCTS or node in linear or not any(constant):
            continue
        scopes = scope_path(node)
        name = scopes[-2] if len(scopes) > 1 else node.name or node.outputs[0].name or node.op_type
        if node.op_type == "Conv":
            found[name] = "a convolution with groups, or not over images"
        elif node.op_type == "MatMul" and constant[0]:
            found[name] = "its weights are the left operand"
        else:
            found[name] = f"its weights are not a plain matrix ({node.op_type})"
    return found
