"""Keeps memory that was freed for the next pass, and gives it back to the system between stages."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any

KEPT_BLOCK = 2**27
"""Bytes up to which a block that is freed is kept; the widest activations of 32 images are 77 MB for a ViT-B."""

OLD_KEPT_BLOCK = 2**25
"""The same for versions of glibc that take no more."""

KEPT_TOP = 2**29
"""Bytes of free memory at the end of the heap that are kept: those of a pass of a ViT-B."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""


def keep_freed() -> None:
    """Keep what this process frees until `give_back`, so that the next pass finds it.

    The C library of Linux asks the system anew for every block of more than 32 MB, and the system clears each page when
    it is first written: a seventh of the processor time of a pass of 16 images through the blocks of a ViT-B. The
    setting lasts as long as the process, and replaces one of the environment. Other systems stay as they are.
    """
    options = _function("mallopt")
    # Setting either threshold fixes the other one, so the second is set only if the first was taken.
    if options is not None and (options(MMAP_THRESHOLD, KEPT_BLOCK) or options(MMAP_THRESHOLD, OLD_KEPT_BLOCK)):
        options(TRIM_THRESHOLD, KEPT_TOP)


def give_back(*, cycles: bool = False) -> None:
    """Return freed memory to the system.

    The C library of Linux keeps what is freed below the last block in use, which grows to gigabytes for large models.
    Other systems return it by themselves.

    Args:
        cycles: first free objects that refer to each other, such as the graphs of an export. That takes 0.1 to 0.3 s.
    """
    if cycles:
        gc.collect()
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Any:
    """A function of glibc; None with other C libraries and systems."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
