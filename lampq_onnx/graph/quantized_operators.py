"""Find out by its operators whether a graph is quantized, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import STORAGE_KEY

_OPERATORS = frozenset(
    [
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
        *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "DequantizeWithOrder"),
        *("QuantizeWithOrder", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "QGemm", "QMoE"),
    ]
)
_PREFIXES = ("QLinear", "QAttention", "QOrdered", "QEmbed")


def quantized_node(model: ir.Model) -> ir.Node | None:
    """Return the first node that quantizes, dequantizes or reads quantized weights; None for a float model.

    Inner graphs and the model's own functions count. So does the Mul of this converter's exact storage, which has no
    DequantizeLinear.
    """
    return next((node for node in _nodes(model) if _is_quantized(node)), None)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _is_quantized(node: ir.Node) -> bool:
    return (
        node.op_type in _OPERATORS
        or node.op_type.startswith(_PREFIXES)
        or (node.op_type == "Mul" and STORAGE_KEY in node.metadata_props)
    )


def require_float_file(model: ir.Model, path: Path) -> None:
    """Require a file without quantized operators.

    Raises:
        LampqError: names the first quantized operator.
    """
    node = quantized_node(model)
    if node is not None:
        raise LampqError(
            f"{path} is quantized already: node {node.name or node.outputs[0].name} is a {node.op_type}",
            hint="give the float model that it was made from",
        )
