"""Read from a graph which width each row of a pooled weight has, see `pools`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.packing.bit_layout import FIELD_WIDTHS
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import CHANNEL_CLASSES_KEY, CHANNEL_ROWS_KEY
from lampq_onnx.quantization.pools import class_bits


@dataclass(frozen=True)
class ChannelRows:
    """Where the rows of a weight are, as its metadata say.

    Attributes:
        pool: name of the pool.
        first: index of its first row in the pool.
        inputs: numbers in a row.
    """

    pool: str
    first: int
    inputs: int


def channel_rows(scaling: ir.Node) -> ChannelRows | None:
    """Return where the rows of a weight are; None: it is not in a pool.

    Args:
        scaling: the node that scales the weight.

    Raises:
        LampqError: the metadata of the node are damaged.
    """
    text = scaling.metadata_props.get(CHANNEL_ROWS_KEY)
    if text is None:
        return None
    words = text.split()
    if len(words) != 3 or not all(word.isdecimal() and len(word) < 10 for word in words[1:]):
        raise LampqError(
            f"the metadata {CHANNEL_ROWS_KEY} of node {scaling.name} is {text[:40]!r}, not a pool and two numbers"
        )
    return ChannelRows(words[0], int(words[1]), int(words[2]))


def pool_row_bits(graph: ir.Graph, names: Iterable[str]) -> dict[str, npt.NDArray[np.int8]]:
    """Return the width of each row of the pools with these names; pools that the graph does not have are left out."""
    nodes = {node.name: node for node in graph if CHANNEL_CLASSES_KEY in node.metadata_props}
    found = {}
    for name in names:
        node = nodes.get(name)
        if node is None:
            continue
        widths = [int(word) for word in node.metadata_props[CHANNEL_CLASSES_KEY].split() if word.isdecimal()]
        numbers = _unpacked(graph, f"{name}.ids", class_bits(len(widths)))
        # The last byte may hold numbers of rows that do not exist.
        if numbers is not None and widths:
            found[name] = np.array(widths, np.int8)[np.minimum(numbers, len(widths) - 1)]
    return found


def _unpacked(graph: ir.Graph, name: str, bits: int) -> npt.NDArray[np.uint8] | None:
    """Return the codes whose fields are the constants of this name, as `pack` wrote them."""
    codes, shift = np.zeros(0, np.uint8), bits
    for width in FIELD_WIDTHS:
        if not bits & width:
            continue
        value = graph.initializers.get(f"{name}.bits{width}")
        if value is None or value.const_value is None:
            return None
        shift -= width
        packed = value.const_value.numpy().reshape(-1)
        fields = (packed[:, None] >> (np.arange(8 // width, dtype=np.uint8) * width)) & (2**width - 1)
        part = (fields.reshape(-1) << shift).astype(np.uint8)
        size = min(len(codes), len(part)) if len(codes) else len(part)
        codes = part[:size] | codes[:size] if len(codes) else part
    return codes
