"""The place of a layer in the maps: its block, and its role in the block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lampq_onnx.converter.blocks import block_of


class Place(NamedTuple):
    """Column and row of a map.

    Attributes:
        column: the block without the common prefix, e.g. 3 for blocks.3 and 0.1 for layers.0.blocks.1.
        row: the rest of the name, e.g. attn.qkv.
    """

    column: str
    row: str


def place_of(layer: str) -> Place | None:
    """Return the place of a layer; None outside the blocks."""
    block = block_of(layer)
    if block is None or block == layer:
        return None
    return Place(".".join(re.findall(r"(?<=\.)\d+(?=\.|$)", "." + block)), layer[len(block) + 1 :])


def places_of(places: Iterable[Place]) -> tuple[list[str], list[str]]:
    """Return columns and rows, in the order of the model."""
    found = list(places)
    return list(dict.fromkeys(p.column for p in found)), list(dict.fromkeys(p.row for p in found))
