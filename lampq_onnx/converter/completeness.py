"""Check that the graph quantizes every layer that the plan quantizes, at the planned widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.errors import LampqError


def require_complete(model: ir.Model, plan: BitPlan, names: Iterable[str]) -> None:
    """Read the converted graph back and compare it with the plan.

    Args:
        model: the converted graph.
        plan: the requested widths.
        names: the layers that the plan quantizes.

    Raises:
        LampqError: a layer stayed in float, or has widths that are not planned.
    """
    written = {layer.name: layer for layer in inspect_model(model)}
    for name in names:
        wanted, found = plan.layers[name], written.get(name)
        if found is None:
            raise LampqError(
                f"layer {name} should be quantized, but is still in float in the converted graph",
                hint="give it 32 weight_bits and 32 activation_bits in the plan to leave it in float on purpose",
            )
        widths = (found.weight_bits, found.activation_bits)
        if widths != (wanted.weight_bits, wanted.activation_bits):
            raise LampqError(
                f"layer {name} has {widths[0]} weight and {widths[1]} activation bits in the converted graph, and "
                f"{wanted.weight_bits} and {wanted.activation_bits} in the plan"
            )
        counts = None if wanted.channel_widths is None else wanted.channel_widths.counts
        if counts is not None and (found.channel_bits or {found.weight_bits: sum(counts.values())}) != counts:
            raise LampqError(
                f"layer {name} has output channels of {_counted(found.channel_bits)} in the converted graph, and of "
                f"{_counted(counts)} in the plan"
            )


def _counted(counts: Mapping[int, int] | None) -> str:
    """Format widths and numbers of channels."""
    return ", ".join(f"{width} bits ({count})" for width, count in (counts or {}).items()) or "one width"
