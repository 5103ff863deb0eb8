"""Lets go of the graphs that onnxscript's rewrite rules hold."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import rewrite


def forget_graphs() -> None:
    """Let rewrite rules drop the graph that was exported or converted last.

    The rules are objects of the module, and each one keeps the node that it was tried on last, with its graph and all
    weights. So they are tried on a graph of one node.
    """
    source = ir.Value(name="x")
    node = ir.node("Identity", [source], outputs=[ir.Value(name="y")])
    graph = ir.Graph([source], node.outputs, nodes=[node], opset_imports={"": 20}, name="nothing")
    rewrite(ir.Model(graph, ir_version=10))
