"""Text form of sizes for messages and tables."""

from __future__ import annotations

MEGABYTE = 10**6
"""Bytes."""


def megabytes(count: float) -> str:
    """Write a number of bytes in MB, the one unit used for sizes.

    >>> megabytes(161_234), megabytes(4_000_000_000), megabytes(12)
    ('0.161 MB', '4000 MB', '0.000012 MB')
    """
    amount = count / MEGABYTE
    if amount >= 100:
        return f"{amount:.0f} MB"
    if amount >= 10:
        return f"{amount:.1f} MB"
    return f"{amount:.3f} MB" if amount >= 0.001 or count == 0 else f"{amount:.6f} MB"
