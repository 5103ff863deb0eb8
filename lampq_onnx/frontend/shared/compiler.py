"""Keeps the parts of PyTorch's compiler out of memory that nothing here needs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch

TRITON = "triton"
"""Compiler of GPU kernels, a library of 75 MB. timm and the export load it wherever it is installed."""


ASKING = "torch.utils._triton"
"""PyTorch's questions whether Triton is there; it keeps the answers."""


@contextmanager
def without_triton() -> Iterator[None]:
    """Leave Triton out of what PyTorch loads inside, if PyTorch sees no GPU: there is nothing to compile kernels for.

    PyTorch's builds for CPUs are installed without Triton, so all of its code runs without. Outside, Triton can be
    imported as ever.
    """
    if TRITON in sys.modules or torch.cuda.is_available():
        yield
        return
    sys.modules[TRITON] = None  # type: ignore[assignment]  # Python's way to let an import fail
    try:
        yield
    finally:
        sys.modules.pop(TRITON, None)
        for found in vars(sys.modules.get(ASKING, sys)).values():
            if isinstance(found, functools._lru_cache_wrapper):
                found.cache_clear()


def load_compiler() -> None:
    """Import what timm needs of the compiler, without Triton if possible; to be called before timm is loaded."""
    with without_triton():
        import_module("torch._dynamo")
