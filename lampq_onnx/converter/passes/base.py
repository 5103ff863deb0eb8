"""Base class of the converter's passes over layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.keys import UNIT_KEY

INTEGER_KERNEL_BITS = 8
"""Widest inputs of onnxruntime's integer kernels; layers with wider inputs run in float."""


Numbers = TypeVar("Numbers")


class LayerPass(CountingPass, Generic[Numbers]):
    """A pass over the layers that are to be quantized.

    Attributes:
        parameters: layer -> what the pass must know about it.
    """

    def __init__(self, parameters: Mapping[str, Numbers]) -> None:
        super().__init__()
        self.parameters = parameters

    def layers(self, model: ir.Model) -> list[tuple[str, ir.Node]]:
        """List the names and nodes of the layers that are to be quantized, in graph order."""
        named = ((node.metadata_props.get(UNIT_KEY, ""), node) for node in model.graph)
        return [(name, node) for name, node in named if name in self.parameters]
