"""How many threads PyTorch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SUM_THREADS = 2
"""Where many numbers are added up, whatever the run's number: PyTorch and its libraries split long sums (products over
tokens, factorizations, gradients) into one part a thread, and the result would depend on it."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
