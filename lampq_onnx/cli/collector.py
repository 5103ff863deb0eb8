"""Spares Python's search for garbage in what stays until the program ends.

Hundreds of thousands of objects of imported libraries are never garbage. Python looks through them again and again
while it imports, exports a graph and ends: a fifth of the processor time of a run with a small model. These functions
are for a process that belongs to the command line alone.
"""

from __future__ import annotations

import gc

WHILE_LOADING = 1_000_000
"""Added to the number of new objects after which garbage is searched for, while libraries are imported."""


def expect_imports() -> None:
    """Hardly search, until `settle`: nothing that is imported is garbage."""
    first, *others = gc.get_threshold()
    gc.set_threshold(first + WHILE_LOADING, *others)


def settle() -> None:
    """Search as usual from now on, but not in what there is. Nothing happens if no imports were expected."""
    first, *others = gc.get_threshold()
    if first >= WHILE_LOADING:
        gc.freeze()
        gc.set_threshold(first - WHILE_LOADING, *others)


def expect_end() -> None:
    """Leave all that there is to the system, which takes it back when the process ends."""
    gc.freeze()
