"""Which weights with rows of several widths are stored together; the writer and the byte budget must agree on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

POOL_WEIGHTS = 2**22
"""Most weights in one pool, unless a single layer has more. The nodes of a pool take some thousand bytes, and so many
weights two million. A check of one layer has to unpack the whole pool."""


def pools_of(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Return the layers of each pool: consecutive ones with the same number of inputs.

    Args:
        shapes: layer -> (outputs, inputs) of its weight, in the order of the graph.
    """
    found: list[list[str]] = []
    latest: dict[int, tuple[list[str], int]] = {}
    for name, (outputs, inputs) in shapes.items():
        names, size = latest.get(inputs, ([], 0))
        if not names or size + outputs * inputs > POOL_WEIGHTS:
            names, size = [], 0
            found.append(names)
        names.append(name)
        latest[inputs] = (names, size + outputs * inputs)
    return found


def class_bits(classes: int) -> int:
    """Return the bits that the number of a row's class takes: 1, 2, 3 or 4."""
    return max(1, (classes - 1).bit_length())


POOL_BYTES = 800
"""Bytes of the nodes of a pool that order its rows, and of their names."""

CLASS_BYTES: Mapping[int, int] = {1: 420, 2: 600, 3: 1400, 4: 590, 5: 1780, 6: 1280, 7: 755, 8: 100}
"""Bytes of the nodes that unpack the rows of one width in a pool. Up to 4 bits they may have two grids, each with nodes
of its own: this is the mean of what was measured."""


def pool_bytes(shapes: Mapping[str, tuple[int, ...]], widths: Collection[int]) -> int:
    """Return the bytes that pools take beside the rows and the numbers of their classes.

    Args:
        shapes: layer -> (outputs, inputs), for the layers whose rows differ in width.
        widths: the widths of rows.
    """
    if not shapes:
        return 0
    tables = sum(2 * 256 * 8 // width for bits in widths if bits < 5 for width in (4, 2, 1) if bits & width)
    return tables + len(pools_of(shapes)) * (POOL_BYTES + sum(CLASS_BYTES[bits] for bits in widths))
