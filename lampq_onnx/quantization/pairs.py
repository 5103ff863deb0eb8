"""When exact storage looks up two bytes at once; the writer and the byte budget must agree on it."""

from __future__ import annotations

PAIR_ROWS = 2**16
PAIR_SHARE = 32
"""Smallest ratio of the bytes unpacked through a table of byte pairs to the size of the table."""


def pair_table_size(width: int) -> int:
    """Return the bytes of the table for fields of ``width`` bits: a row of int8 per pair of bytes."""
    return PAIR_ROWS * (16 // width)


def pairs_pay(width: int, packed_bytes: int) -> bool:
    """Whether fields of ``width`` bits with this many bytes in all are looked up in pairs."""
    return packed_bytes >= PAIR_SHARE * pair_table_size(width)
