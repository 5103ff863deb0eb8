"""Lets models call `len` of a tensor while they are exported, without fixing the number of images."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

NAME = "len"


@contextmanager
def symbolic_lengths(module: torch.nn.Module) -> Iterator[None]:
    """Inside the block, `len(tensor)` in the code of a model is the size that the exporter follows.

    Python's `len` has to return an int, so that the exporter writes the example's number of images into the graph, as
    in RT-DETR. For the time of the block, the files in which the classes of the model stand have a `len` of their own;
    files that define one themselves are left alone.
    """
    names = {type(part).__module__ for part in module.modules()}
    files = [sys.modules[name] for name in names if name in sys.modules and not name.startswith("torch.")]
    changed = [file for file in files if file is not builtins and NAME not in vars(file)]
    for file in changed:
        setattr(file, NAME, _length)
    try:
        yield
    finally:
        for file in changed:
            delattr(file, NAME)


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else builtins.len(value)
