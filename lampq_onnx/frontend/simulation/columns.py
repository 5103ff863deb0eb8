"""The columns of GPTQ: rounds some columns one after the other, on a GPU as one CUDA graph.

A column is a few small operations, so that a GPU would wait for Python most of the time. The graph has the same
operations in the same order, and gives the same codes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.errors import first_line, is_out_of_memory
from lampq_onnx.frontend.simulation.levels import float8_numbers
from lampq_onnx.quantization import Grid, WeightGrid

_log = logging.getLogger(__name__)


class Levels:
    """Nearest levels of one column on several grids at once.

    Args:
        grids: the grids, all with one scale for each output, or all with one for each block of as many inputs; and all
            of float8, or none.
        device: where the column is.

    Attributes:
        half: float32 (outputs of all grids,), what turns numbers into codes.
    """

    def __init__(self, grids: Sequence[WeightGrid], device: torch.device) -> None:
        self._block = grids[0].block
        # One row for each block, or one for all inputs.
        joined = _joined([grid.scale for grid in grids], device)
        self._scales = joined.reshape(len(joined), -1).T.contiguous()
        self.half = _joined([2.0 ** (grid.row_bits().astype(np.float32) - 1) for grid in grids], device)
        self._last = self.half - 1
        self._first = -self.half
        rises = _joined([grid.row_rises() for grid in grids], device)
        self._float8 = grids[0].grid is Grid.E4M3
        self._rises = rises if bool(rises.any()) else None
        self._all_rise = bool(rises.all())
        self._step = 1 + rises.float()
        self._offset = rises.float()
        self._share = 1 / self._step

    def scales(self, places: torch.Tensor) -> torch.Tensor:
        """Scales of the columns of inputs ``places``: a row for each, or one row for all."""
        return self._scales if self._block is None else self._scales[places // self._block]

    def nearest(self, column: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the nearest levels of a column, and the levels as real weights."""
        ratio = column / scale
        if self._float8:
            found = float8_numbers(ratio)
            return found.view(torch.uint8).float() - self.half, found.float() * scale
        if self._rises is None:
            number = ratio.round_()
        elif self._all_rise:
            number = ratio.mul_(0.5).floor_()
        else:
            ratio.mul_(self._share)
            number = torch.where(self._rises, torch.floor(ratio), torch.round(ratio))
        number = torch.clamp(number, self._first, self._last)
        if self._rises is None:
            return number, number * scale
        return number, torch.addcmul(self._offset, number, self._step).mul_(scale)


class Columns:
    """Rounds columns, as many at a time as a CUDA graph was made for, or any number in a loop.

    Args:
        levels: of all grids.
        graphed: whether later calls replay the first one's operations as a CUDA graph, if the columns are on a GPU.
    """

    def __init__(self, levels: Levels, *, graphed: bool) -> None:
        self._levels = levels
        self._graphed = graphed
        self._inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._outputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def round(
        self, part: torch.Tensor, factor: torch.Tensor, diagonal: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round columns in order; the errors of each are taken over by those after it.

        Args:
            part: float32 (columns, outputs), the real weights; afterwards those that were rounded.
            factor: float32 (columns, columns), how errors spread.
            diagonal: float32 (columns,), what the error of each is divided by.
            places: int64 (columns,), inputs that they belong to.

        Returns:
            Errors and numbers of the levels, float32 (columns, outputs); valid until the next call.
        """
        given = (part, factor, diagonal, self._levels.scales(places))
        if self._replay is not None and self._inputs is not None and part.shape == self._inputs[0].shape:
            for own, value in zip(self._inputs, given, strict=True):
                own.copy_(value)
            self._replay()
            part.copy_(self._inputs[0])
            assert self._outputs is not None
            return self._outputs
        found = torch.empty_like(part), torch.empty_like(part)
        _round(self._levels, *given, *found)  # also makes all kernels ready before a capture
        if self._graphed and part.is_cuda and self._inputs is None:
            self._inputs = (given[0].clone(), given[1].clone(), given[2].clone(), given[3].clone())
            self._outputs = torch.empty_like(part), torch.empty_like(part)
            self._replay = self._captured()
        return found

    def _captured(self) -> Callable[[], None] | None:
        """The operations of one call as a graph; None if it cannot be made, and then they run one by one."""
        assert self._inputs is not None
        assert self._outputs is not None
        try:
            with torch.cuda.device(self._inputs[0].device):
                graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    graph.capture_begin(capture_error_mode="thread_local")
                    try:
                        _round(self._levels, *self._inputs, *self._outputs)
                    finally:
                        graph.capture_end()
                torch.cuda.current_stream().wait_stream(stream)
        except RuntimeError as error:
            # The end of a capture that failed may raise as well, and hide why.
            if any(cause is not None and is_out_of_memory(cause) for cause in (error, error.__context__)):
                raise
            _warn_once(first_line(error))
            return None
        return graph.replay


@cache
def _warn_once(reason: str) -> None:
    _log.warning("GPTQ runs one operation at a time: %s", reason)


def _round(
    levels: Levels,
    part: torch.Tensor,
    factor: torch.Tensor,
    diagonal: torch.Tensor,
    scales: torch.Tensor,
    errors: torch.Tensor,
    numbers: torch.Tensor,
) -> None:
    for j in range(len(part)):
        number, level = levels.nearest(part[j], scales[j if len(scales) > 1 else 0])
        numbers[j] = number
        torch.sub(part[j], level, out=errors[j])
        errors[j].div_(diagonal[j])
        if j + 1 < len(part):
            part[j + 1 :].addr_(factor[j, j + 1 :], errors[j], alpha=-1)


def _joined(parts: Sequence[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)
