"""Raise the opset of a converted graph to what its types need."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import onnxscript.version_converter

from lampq_onnx.converter.packing.storage import required_opset as opset_of_weight
from lampq_onnx.converter.passes.one_attention import has_core
from lampq_onnx.converter.passes.quantize_activations import required_opset as opset_of_input
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.parameters import Parameters
from lampq_onnx.targets import ATTENTION_OPSET, Packing, Target

HALF_OPSET = 19
"""First opset whose QuantizeLinear and DequantizeLinear take float16."""


class RaiseOpset(CountingPass):
    """Bring the graph to the opset that its new types need.

    1. The goal is the lowest opset that the storage of the weights, the widths of the inputs, float16 and the operator
       Attention need. A graph that already has it is left unchanged: raising the opset without need may change
       operators.
    2. The result must not be newer than what the target reads.

    Args:
        parameters: layer -> its quantization parameters.
        packing: storage of the layers that ``storages`` does not name.
        storages: layer -> storage.
        target: where the file is meant to run.
        one_attention: whether the operator Attention is wanted, see `OneAttention`.

    Raises:
        LampqError: the graph cannot be brought to the opset, or the target does not read it.
    """

    purpose = "raising of the opset"

    def __init__(
        self,
        parameters: Parameters,
        packing: Packing,
        storages: Mapping[str, Packing],
        target: Target,
        *,
        one_attention: bool = False,
    ) -> None:
        super().__init__()
        self._packing = packing
        self._target = target
        self._one_attention = one_attention
        self._attention = 0
        self._weights = max(
            (opset_of_weight(p.weight, storages.get(name, packing)) for name, p in parameters.items()), default=0
        )
        self._inputs = max((opset_of_input(p.activation) for p in parameters.values()), default=0)
        self._half = HALF_OPSET if target.half else 0

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        raised = self._raise(model)
        opset = model.opset_imports.get("", 0)
        if opset > self._target.opset:
            raise LampqError(
                f"the graph has opset {opset}, but {self._target.name} reads at most opset {self._target.opset}",
                hint="leave out --attention operator"
                if self._attention == opset
                else "export the model with an older opset, or choose widths and a --packing that need no newer one",
            )
        return raised

    def _raise(self, model: ir.Model) -> int:
        self._attention = ATTENTION_OPSET if self._one_attention and has_core(model.graph) else 0
        needed = max(self._weights, self._inputs, self._attention, self._half)
        current = model.opset_imports.get("", 0)
        if current >= needed:
            return 0
        if self._attention == needed:
            why, hint = "the operator Attention", "leave out --attention operator"
        elif self._half == needed:
            why, hint = f"float16 files for {self._target.name}", "use another --target"
        elif self._weights >= self._inputs:
            why, hint = f"weights in {self._packing} storage", "use --packing exact or --packing container"
        else:
            why, hint = "16-bit activations", "set activation_bits of those layers to 8 or 32 in the plan"
        before = [layer.node for layer in find_layers(model.graph)]
        try:
            onnxscript.version_converter.convert_version(model, needed, fallback=True)
            # The fallback, the version converter of the onnx package, drops the nodes' metadata but keeps layers and
            # their order.
            for old, new in zip(before, find_layers(model.graph), strict=True):
                new.node.metadata_props.update(old.metadata_props)
        except Exception as error:  # whatever an adapter raises, the advice to the user is the same
            raise LampqError(
                f"the graph cannot be brought from opset {current} to {needed}, which {why} need: {error}",
                hint=hint,
            ) from error
        if model.opset_imports.get("", 0) < needed:
            raise LampqError(
                f"the graph cannot be brought from opset {current} to {needed}, which {why} need",
                hint=hint,
            )
        return 1
