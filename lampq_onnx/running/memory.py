"""Give memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any


def give_back(*, cycles: bool = False) -> None:
    """Return freed memory to the system.

    The C library of Linux keeps what is freed below the last block in use, which grows to gigabytes for large models.
    Other systems return it by themselves.

    Args:
        cycles: first free objects that refer to each other, such as the graphs of an export. That takes 0.1 to 0.3 s.
    """
    if cycles:
        gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """malloc_trim of glibc; None with other C libraries and systems."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
