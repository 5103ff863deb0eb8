"""Replace float weights by packed integers and the operators that unpack them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import onnx_ir as ir

from lampq_onnx.converter.passes.base import CountingPass, Parameters
from lampq_onnx.converter.storage import Stored, store
from lampq_onnx.converter.targets import Packing, Target
from lampq_onnx.quantization import QuantizedWeight


class QuantizeWeights(CountingPass):
    """Give every unit its stored weight.

    1. A weight that several units share with equal numbers is stored and unpacked once; each unit dequantizes it.
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
        first: dict[bytes, Stored] = {}
        for name, node in self.units(model):
            weight = self.parameters[name].weight
            key = _fingerprint(weight)
            if key in first:
                stored = _again(first[key], f"{name}.weight")
            else:
                stored = first[key] = store(weight, f"{name}.weight", self.packing, self.target, tables)
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


def _fingerprint(weight: QuantizedWeight) -> bytes:
    """Equal for equal numbers."""
    digest = hashlib.sha256(f"{weight.bits} {weight.grid} {weight.codes.shape} ".encode())
    digest.update(weight.codes.tobytes())
    digest.update(weight.scale.tobytes())
    return digest.digest()


def _again(stored: Stored, name: str) -> Stored:
    """Another DequantizeLinear of a weight that is in the graph."""
    last = stored.nodes[-1]
    node = ir.node("DequantizeLinear", last.inputs, {"axis": 1}, name=f"{name}.dequantize")
    return replace(stored, value=node.outputs[0], nodes=(node,), initializers=())
