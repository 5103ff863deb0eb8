"""Where exact storage looks two bytes up at once, which its writer and a budget of bytes have to agree on."""

from __future__ import annotations

PAIR_ROWS = 2**16
PAIR_SHARE = 32
"""What a table of byte pairs unpacks is at least so many times its size."""


def pair_table_size(width: int) -> int:
    """Bytes of the table for fields of ``width`` bits: a row of int8 for each pair of bytes."""
    return PAIR_ROWS * (16 // width)


def pairs_pay(width: int, packed_bytes: int) -> bool:
    """Whether fields of ``width`` bits that take so many bytes in all are looked up in pairs."""
    return packed_bytes >= PAIR_SHARE * pair_table_size(width)
