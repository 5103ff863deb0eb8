"""Find the nodes that read a value."""

from __future__ import annotations

import onnx_ir as ir


def only_reader(value: ir.Value, graph: ir.Graph | None) -> ir.Node | None:
    """Return the standard operator of ``graph`` that alone reads ``value``, and reads it once.

    Returns:
        None if several inputs read the value, if it is an output of the graph, or if its reader is an operator of
        another domain or of an inner graph.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    (use,) = uses
    return use.node if use.node.graph is graph and use.node.domain in ("", "ai.onnx") else None
