"""Outputs of a graph's blocks, found from its layers: the tensors that leave a block on the residual stream."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

from lampq_onnx.converter.inspect import QuantizedLayer

_BLOCK = re.compile(r"^(.*\.\d+)(?:\.|$)")

# Operators allowed between a block's last layer and the residual Add (layer scale, windows, post-norm).
_PASSED = frozenset(
    [
        *("Mul", "Add", "Concat", "LayerNormalization"),
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Cast", "Dropout"),
    ]
)


def block_of(layer: str) -> str | None:
    """Return the block in a layer's name, e.g. blocks.3 of blocks.3.mlp.fc2; None if the name has no number."""
    found = _BLOCK.match(layer)
    return found.group(1) if found else None


def block_outputs(model: ir.Model, layers: Sequence[QuantizedLayer]) -> dict[str, str]:
    """Map each block to the name of the tensor in which the result of its last layer leaves it.

    Args:
        model: the quantized graph.
        layers: layers of that graph, in graph order, as `inspect_model` lists them.

    Returns:
        Blocks in graph order. If no residual Add follows the last layer, the tensor is the layer's own output, the
            first one of several.
    """
    last = {block: layer for layer in layers if (block := block_of(layer.name)) is not None}
    values = {output.name: output for node in model.graph for output in node.outputs}
    order = {layer.name: position for position, layer in enumerate(layers)}
    found = {}
    for block, layer in sorted(last.items(), key=lambda item: order[item[1].name]):
        ends = (values[output] for output in layer.outputs if output in values)
        found[block] = next((joined for end in ends if (joined := _joined(end)) is not None), layer.outputs[0])
    return found


def _joined(value: ir.Value) -> str | None:
    """Return the first sum of two computed tensors downstream."""
    front, seen = [value], set()
    while front:
        current = front.pop(0)
        for use in current.uses():
            node = use.node
            if node in seen or node.op_type not in _PASSED:
                continue
            seen.add(node)
            if node.op_type == "Add" and all(v is not None and _computed(v) for v in node.inputs):
                return node.outputs[0].name
            front.extend(node.outputs)
    return None


def _computed(value: ir.Value) -> bool:
    return value.const_value is None
