"""Replace float weights by packed integers and the operators that unpack them."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.converter.passes.base import CountingPass, Parameters
from lampq_onnx.converter.storage import Stored, store
from lampq_onnx.converter.targets import Packing, Target


class QuantizeWeights(CountingPass):
    """Give every unit its stored weight.

    1. A weight that several units share with equal numbers is stored once.
    2. The node that dequantizes a weight carries the unit's name, widths, scheme and storage in its metadata.

    Attributes:
        stored: unit name -> how its weight lies in the file, after the call.
    """

    def __init__(self, parameters: Parameters, packing: Packing, target: Target) -> None:
        super().__init__(parameters)
        self.packing = packing
        self.target = target
        self.stored: dict[str, Stored] = {}

    def apply(self, model: ir.Model) -> int:
        """See the class."""
        graph = model.graph
        tables: dict[str, ir.Value] = {}
        for name, node in self.units(model):
            weight = self.parameters[name].weight
            stored = store(weight, f"{name}.weight", self.packing, self.target, tables)
            for value in stored.initializers:
                graph.register_initializer(value)
            graph.insert_before(node, list(stored.nodes))
            node.replace_input_with(1, stored.value)
            stored.nodes[-1].metadata_props.update(self._labels(name, stored))
            self.stored[name] = stored
        return len(self.stored)

    def _labels(self, name: str, stored: Stored) -> dict[str, str]:
        numbers = self.parameters[name]
        return {
            "lampq_onnx.unit": f"{name}.weight",
            "lampq_onnx.weight_bits": str(numbers.weight.bits),
            "lampq_onnx.activation_bits": str(numbers.activation.bits),
            "lampq_onnx.scheme": numbers.weight.grid.value,
            "lampq_onnx.storage": stored.storage,
        }
