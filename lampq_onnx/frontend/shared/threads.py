"""Sets the number of threads that PyTorch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SUM_THREADS = 2
"""Threads for long sums, independent of the number of threads of the run.

PyTorch and its libraries split long sums (products over tokens, factorizations, gradients) into one part per thread, so
the result would otherwise depend on the number of threads.
"""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads inside the block; restore it on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
