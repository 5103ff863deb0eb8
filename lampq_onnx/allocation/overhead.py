"""Bytes of a quantized file beside its weights and scales: nodes, names, shapes, metadata and shared constants.

Measured with the exporter's own files of the digits model and of a small YOLOS, for each target, storage and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lampq_onnx.artifacts import LayerSensitivity
from lampq_onnx.quantization.pairs import PAIR_SHARE, pair_table_size
from lampq_onnx.targets import Packing, Target


@dataclass(frozen=True)
class NodeBytes:
    """Bytes of nodes in which the name of their layer stands several times.

    Attributes:
        own: bytes beside the names.
        names: how many times the name stands there.
    """

    own: int
    names: int

    def of(self, layer: LayerSensitivity) -> int:
        """Return the bytes for a layer."""
        return self.own + self.names * len(layer.name)


LAYER = NodeBytes(720, 25)
"""Every quantized layer: nodes, shapes and its entry in the plan."""

PARTS = NodeBytes(600, 17)
"""Queries, keys and values as separate products (`Target.part_products`)."""

TOKENS = NodeBytes(160, 1)
"""Nodes that move the input of queries, keys and values (`Target.tokens_first`)."""

GEMM = NodeBytes(80, 0)
"""The integer kernel adds the bias (`Target.gemm_bias`)."""

HALF = NodeBytes(140, 0)
"""Nodes between integers and float16 (`Target.half`)."""

OUTPUTS = NodeBytes(480, 12)
"""The result is quantized too (`Target.output_ranges`)."""

ZERO_POINTS = NodeBytes(45, 4)
"""Zero points of 8-bit weights that are unsigned; each output channel takes one more byte."""

MIXED = NodeBytes(80, 0)
"""A layer whose output channels differ in width, beside the nodes that all such layers share."""

UNSIGNED_ROWS = NodeBytes(200, 0)
"""Nodes that make the rows of such a layer unsigned."""

LOOKED_UP = (NodeBytes(0, 0), NodeBytes(235, 7), NodeBytes(560, 15), NodeBytes(885, 23))
"""Nodes that look weights up, by how many fields a weight has."""

SHARED = {5: NodeBytes(1395, 11), 6: NodeBytes(1015, 11), 7: NodeBytes(545, 11)}
"""Nodes that read weights from bytes that share their spare bits (`Target.shared_bytes`)."""

BLOCKS = NodeBytes(360, 16)
"""A layer whose weights are in blocks (`Target.block`), in place of `LAYER`."""

UNPACKED_BLOCKS = NodeBytes(620, 20)
"""The same for exact storage, beside the nodes that look weights up."""

FILE_BYTES = 2200
"""Bytes of metadata: the recipe, checksums, and the plan without its layers."""

CONSTANT_BYTES = 40
"""Bytes of the name and the type of a constant that layers share."""

GEMM_BYTES = 190
"""Bytes of the shapes and of the zero bias for each number of output channels (`Target.gemm_bias`)."""

SHARED_BYTES = 200
"""Bytes of the masks and factors for weights of one width in bytes that share their spare bits."""

TWO_GRIDS = range(2, 5)
"""Widths that have two grids, each with tables of its own."""


def fields_of(bits: int) -> tuple[int, ...]:
    """Return the widths of the fields in which exact storage keeps weights of so many bits."""
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def node_bytes(layer: LayerSensitivity, target: Target) -> int:
    """Return the bytes of a quantized layer's nodes, without those that unpack its weights."""
    outputs, inputs = layer.shape
    heads = layer.type == "qkv"
    found = [LAYER]
    found += [PARTS] * (target.part_products and heads and outputs == 3 * inputs)
    found += [TOKENS] * (target.tokens_first and heads)
    found += [GEMM] * target.gemm_bias
    found += [HALF] * target.half
    found += [OUTPUTS] * target.output_ranges
    return sum(each.of(layer) for each in found)


def block_bytes(layer: LayerSensitivity, bits: int, storage: Packing) -> int:
    """Return the bytes of the nodes of a layer whose weights are in blocks."""
    if storage != "exact":
        return BLOCKS.of(layer)
    return UNPACKED_BLOCKS.of(layer) + (LOOKED_UP[len(fields_of(bits))].of(layer) if bits < 8 else 0)


def unpack_bytes(layer: LayerSensitivity, bits: int, storage: Packing, target: Target) -> int:
    """Return the bytes of the nodes that unpack a layer's weights to int8.

    Native storage takes less than exact, and counts as much: a newer opset is not worth the small difference.
    """
    if bits > 7 or storage == "container" or not target.folds:
        return 0
    if storage == "native":
        return LOOKED_UP[1].of(layer) if bits <= 4 else 0
    if _looked_up(bits, target):
        return LOOKED_UP[len(fields_of(bits))].of(layer)
    return SHARED[bits].of(layer)


def zero_point_bytes(layer: LayerSensitivity, bits: int, storage: Packing, target: Target) -> int:
    """Return the bytes of the zero points of a layer's weights, where these are written."""
    outputs = layer.shape[0]
    if bits == 8 and not target.signed_8bit_exact:
        return ZERO_POINTS.of(layer) + outputs
    if target.zero_points:
        return outputs // 2 if storage == "native" and bits <= 4 else outputs
    return 0


def shared_bytes(
    layers: Sequence[LayerSensitivity],
    exact: Mapping[int, Sequence[LayerSensitivity]],
    weights: Mapping[int, int],
    target: Target,
) -> int:
    """Return the most bytes that the metadata takes, and the constants that layers share.

    Args:
        layers: the quantized layers.
        exact: width -> layers whose weights are all of it, in exact storage.
        weights: width -> weights of it in exact storage, those of channels of several widths too.
        target: where the file is meant to run.
    """
    if not layers:
        return 0
    total = FILE_BYTES
    if target.gemm_bias:
        total += sum(GEMM_BYTES + 4 * outputs for outputs in {layer.shape[0] for layer in layers})
    if target.block is not None:
        stored = {layer.shape[1] for own in exact.values() for layer in own}
        total += sum(CONSTANT_BYTES + 4 * inputs for inputs in stored)
    for bits, count in weights.items():
        own = exact.get(bits, ())
        if bits == 8:
            continue
        if _looked_up(bits, target):
            # Pools count the tables of channels of up to 4 bits.
            users = len(own) if own or bits < 5 else 1
            total += _table_bytes(bits, users) + pair_bytes(bits, count)
        elif own:
            total += SHARED_BYTES
            if bits < 7:  # zero points
                total += sum(CONSTANT_BYTES + outputs for outputs in {layer.shape[0] for layer in own})
    return total


def _table_bytes(bits: int, users: int) -> int:
    """Return the most bytes of the tables in which weights of one width, those of ``users`` layers, are looked up."""
    return _grids(bits, users) * sum(CONSTANT_BYTES + 256 * 8 // width for width in fields_of(bits))


def pair_bytes(bits: int, weights: int) -> int:
    """Return the most bytes of the tables in which so many weights of one width are looked up in pairs of bytes."""
    total = 0
    for width in fields_of(bits):
        size = pair_table_size(width)
        # Each grid has a table, if that pays for its own weights.
        total += min(_grids(bits, weights), weights * width // 8 // (PAIR_SHARE * size)) * (CONSTANT_BYTES + size)
    return total


def _grids(bits: int, users: int) -> int:
    """Return the most grids that weights of one width have: each has tables of its own."""
    return min(2 if bits in TWO_GRIDS else 1, users)


def _looked_up(bits: int, target: Target) -> bool:
    """Whether exact storage looks weights of so many bits up."""
    return bits not in SHARED or not target.shared_bytes
