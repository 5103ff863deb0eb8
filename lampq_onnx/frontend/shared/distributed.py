"""Process groups as torchrun starts them: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from lampq_onnx.errors import UsageError
from lampq_onnx.running.processes import ALONE, Array, Group, started_by_torchrun

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""


@dataclass(frozen=True)
class TorchGroup:
    """The default process group of torch.distributed.

    Attributes:
        rank: index of this process.
        size: number of processes.
        device: device of the tensors that are reduced; NCCL only reduces tensors on GPUs.
    """

    rank: int
    size: int
    device: torch.device

    def sum(self, values: Array) -> Array:
        """Sum over all processes; see `Group.sum`."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Array) -> Array:
        """Maximum over all processes; see `Group.max`."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Array, how: Any) -> Array:
        tensor = torch.from_numpy(values.copy()).to(self.device)
        dist.all_reduce(tensor, op=how)
        reduced: Array = tensor.cpu().numpy()
        return reduced


def own_device(device: str) -> str:
    """``cuda`` becomes the GPU of this process; other devices stay as they are."""
    if device == "cuda" and started_by_torchrun():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The processes that torchrun started together with this one; only this process without torchrun.

    Args:
        device: device of the front end; decides between gloo and NCCL.

    Raises:
        UsageError: torchrun's variables are incomplete, or the GPU does not exist.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set for several processes, but {missing[0]} is not set",
            hint="start them with torchrun, or unset WORLD_SIZE",
        )
    own = torch.device(own_device(device))
    if own.type == "cuda":
        if not torch.cuda.is_available() or (own.index or 0) >= torch.cuda.device_count():
            raise UsageError(
                f"device {own}: torch sees {torch.cuda.device_count()} CUDA device(s) here",
                hint="start one process per GPU of the machine (--nproc-per-node)",
            )
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield TorchGroup(dist.get_rank(), dist.get_world_size(), own)
    finally:
        dist.destroy_process_group()
