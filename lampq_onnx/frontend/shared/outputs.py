"""Several outputs of a model as one tensor, which all stages measure, or as the separate ones that a file has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class Joining(torch.nn.Module):
    """A module that returns its outputs joined, see `join`, or as a tuple.

    Attributes:
        joined: whether they are joined.
    """

    joined: bool = True


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join outputs (n, ...) along their last axis, or flattened (n, numbers) if their other axes differ."""
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[:-1] for part in parts}) > 1:
        parts = [part.flatten(1) for part in parts]
    return torch.cat(list(parts), -1)


@contextmanager
def outputs_apart(module: torch.nn.Module) -> Iterator[None]:
    """Let a module with several outputs return them separately inside the block."""
    before = isinstance(module, Joining) and module.joined
    if isinstance(module, Joining):
        module.joined = False
    try:
        yield
    finally:
        if isinstance(module, Joining):
            module.joined = before
