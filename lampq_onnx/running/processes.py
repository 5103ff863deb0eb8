"""Processes that share the images of one run, described without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Item = TypeVar("Item")


class Group(Protocol):
    """All processes of a run. Sums and maxima are the same in each of them."""

    @property
    def rank(self) -> int:
        """Index of this process, 0 .. size - 1; process 0 writes the files."""

    @property
    def size(self) -> int:
        """Number of processes in the run."""

    def sum(self, values: Array) -> Array:
        """Sum over all processes, element by element; each calls it with the same shape."""
        ...

    def max(self, values: Array) -> Array:
        """Take the maximum over all processes, element by element."""
        ...


class _Alone:
    rank = 0
    size = 1

    def sum(self, values: Array) -> Array:
        return values

    def max(self, values: Array) -> Array:
        return values


ALONE: Group = _Alone()
"""One process."""


def writes_files() -> bool:
    """Whether this is the process that writes and prints the results, among those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def started_by_torchrun() -> bool:
    """Whether this process is one of several started by torchrun."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def own_items(items: Iterator[Item], group: Group) -> Iterator[Item]:
    """Yield every ``size``-th item, starting with the ``rank``-th: the processes take batches in turn."""
    return islice(items, group.rank, None, group.size)


def summed(values: Mapping[str, float], group: Group) -> dict[str, float]:
    """Sum values over all processes, by name; each process has the same names in the same order."""
    if group.size == 1:
        return dict(values)
    return dict(zip(values, group.sum(np.array(list(values.values()), np.float64)).tolist(), strict=True))
