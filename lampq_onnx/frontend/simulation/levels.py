"""Rounded weights as real numbers, and real numbers as rounded weights, on the model's device."""

from __future__ import annotations

import numpy as np
import torch

from lampq_onnx.quantization import Grid, QuantizedWeight, WeightGrid
from lampq_onnx.quantization.grids import LARGEST_FLOAT8


def dequantized(weight: QuantizedWeight, like: torch.Tensor) -> torch.Tensor:
    """The levels as real weights (outputs, inputs), exactly as `QuantizedWeight.dequantize`, on the device of ``like``.

    Args:
        weight: codes and scales.
        like: gives the device and the type.
    """
    if weight.grid is Grid.E4M3:
        numbers = torch.from_numpy(weight.codes).to(like.device).view(torch.float8_e4m3fn).float()
        return numbers.mul_(_steps(weight, like)).to(like.dtype)
    level = torch.from_numpy(weight.codes).to(like.device).float()
    if weight.widths is None:
        if weight.grid is Grid.MID_RISE:
            level.mul_(2).sub_(2**weight.bits - 1)
        else:
            level.sub_(2 ** (weight.bits - 1))
    else:
        rises = weight.row_rises()
        half = 2.0 ** (weight.row_bits().astype(np.float32) - 1)
        level.mul_(_column(1.0 + rises, like)).sub_(_column(np.where(rises, 2 * half - 1, half), like))
    return level.mul_(_steps(weight, like)).to(like.dtype)


def nearest(grid: WeightGrid, weight: torch.Tensor) -> QuantizedWeight:
    """Round a weight (outputs, inputs) to the nearest levels, as `WeightGrid.quantize`.

    Args:
        grid: levels and scales.
        weight: on any device.
    """
    ratio = weight.float() / _steps(grid, weight)
    if grid.grid is Grid.E4M3:
        return grid.with_codes(float8_numbers(ratio).view(torch.uint8).cpu().numpy())
    codes = torch.empty(ratio.shape, dtype=torch.uint8, device=ratio.device)
    for group in grid.row_groups():
        part = ratio if grid.widths is None else ratio[torch.from_numpy(group.rows).to(ratio.device)]
        number = part.mul_(0.5).floor_() if group.grid is Grid.MID_RISE else part.round_()
        half = 2 ** (group.bits - 1)
        found = number.clamp_(-half, half - 1).add_(half).to(torch.uint8)
        if grid.widths is None:
            codes = found
        else:
            codes[torch.from_numpy(group.rows).to(codes.device)] = found
    return grid.with_codes(codes.cpu().numpy())


def float8_numbers(ratio: torch.Tensor) -> torch.Tensor:
    """The numbers of float8 E4M3 nearest to ``ratio``; larger numbers become the largest."""
    return ratio.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(torch.float8_e4m3fn)


def _steps(source: QuantizedWeight | WeightGrid, like: torch.Tensor) -> torch.Tensor:
    """The scale of each weight of a matrix like ``like``, flattened; one column where rows have one scale."""
    if source.block is None:
        return _column(source.scale, like)
    inputs = like.numel() // len(like)
    return torch.from_numpy(source.scale).to(like.device).repeat_interleave(source.block, 1)[:, :inputs]


def _column(values: np.ndarray[tuple[int], np.dtype[np.generic]], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).to(like.device)[:, None]
