"""Fits the grids of a weight on the model's device: the search of `quantization.fit_weight_grid`, for many widths.

Every start of the search is a few elementwise operations on the whole matrix. On a CPU they run on a few rows at a
time, which stay in its cache through all widths, grids and starts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from lampq_onnx.frontend.simulation.levels import dequantized, nearest
from lampq_onnx.quantization import INTEGER_GRIDS, Grid, WeightGrid, fit_weight_grid
from lampq_onnx.quantization.fitting import REFINEMENTS, SEARCH_RATIOS, float16_scales
from lampq_onnx.quantization.grids import usable_grids

CACHED = 2**17
"""Weights that are processed together on a CPU: three buffers of half a megabyte."""

TINY = torch.finfo(torch.float32).tiny


def fit_weight_grids(
    weight: torch.Tensor, widths: Sequence[int], grids: Collection[str] = INTEGER_GRIDS, block: int | None = None
) -> list[WeightGrid]:
    """Find the grid and the scales of channels or blocks with the smallest squared error, for each width.

    Args:
        weight: (outputs, inputs), finite.
        widths: 1..8 each.
        grids: grids to choose from.
        block: inputs that share a scale, see `quantization.fit_weight_grid`; None: each row has one scale.

    Raises:
        ValueError: the weight is not a matrix or not finite, or a width is outside 1..8 or has none of ``grids``.
    """
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(f"expected a non-empty matrix, got shape {tuple(weight.shape)}")
    for bits in widths:
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be 1..8, not {bits}")
    weight = weight.detach().float()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the weights hold NaN or infinity")
    if block is not None:
        return _fit_blocks(weight, widths, grids, block)
    if set(grids) == {Grid.E4M3}:
        return [fit_weight_grid(weight.cpu().numpy(), bits, grids) for bits in widths]
    usable = {bits: usable_grids(bits, grids) for bits in widths}
    kinds = [(bits, grid) for bits in widths for grid in usable[bits]]
    rows = len(weight) if weight.is_cuda else max(1, CACHED // weight.shape[1])
    parts = [_fit(weight[start : start + rows], kinds) for start in range(0, len(weight), rows)]
    found: dict[tuple[int, Grid], WeightGrid] = {}
    for index, (bits, grid) in enumerate(kinds):
        scale = torch.cat([part[index][0] for part in parts]).cpu().numpy()
        error = float(torch.cat([part[index][1] for part in parts]).sum())
        found[bits, grid] = WeightGrid(scale=scale, bits=bits, grid=grid, error=error)
    return [min((found[bits, grid] for grid in usable[bits]), key=lambda fit: fit.error) for bits in widths]


def _fit_blocks(weight: torch.Tensor, widths: Sequence[int], grids: Collection[str], block: int) -> list[WeightGrid]:
    """Fit each block of inputs as a row of its own, as `fit_weight_grid` does."""
    outputs, inputs = weight.shape
    rows = torch.nn.functional.pad(weight, (0, -inputs % block)).reshape(-1, block)
    found = []
    for fit in fit_weight_grids(rows, widths, grids):
        grid = replace(fit, scale=float16_scales(fit.scale).reshape(outputs, -1), block=block)
        change = dequantized(nearest(grid, weight), weight).sub_(weight)
        found.append(replace(grid, error=float(change.double().square().sum())))
    return found


def starts_of(bits: int, grid: Grid, inputs: int) -> list[float]:
    """Ratios that the search starts from, without those that clip too much to win.

    Without clipping, no weight is off by more than half a step. So the squared error of a channel is at most
    n (step / 2)^2, and a ratio loses if its largest weight alone is off by more.
    """
    if bits == 1:
        return [float(SEARCH_RATIOS[0])]
    top = grid.top(bits)
    half = 1.0 if grid is Grid.MID_RISE else 0.5
    least = (1 - half * math.sqrt(inputs) / top) * top / (top + 1)
    return [float(ratio) for ratio in SEARCH_RATIOS if ratio >= least]


def _fit(weight: torch.Tensor, kinds: Sequence[tuple[int, Grid]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scale float32 (rows,) and squared error float64 (rows,) of each channel, for every width and grid."""
    largest = weight.abs().amax(1)
    # Scaling by powers of two changes no rounding, and squares of huge or tiny weights would overflow or underflow
    # float32.
    exponent = torch.frexp(largest)[1]
    weight = torch.ldexp(weight, -exponent[:, None])
    room = (torch.empty_like(weight), torch.empty_like(weight))
    return [_search(weight, largest, exponent, bits, grid, room) for bits, grid in kinds]


def _search(
    weight: torch.Tensor,
    largest: torch.Tensor,
    exponent: torch.Tensor,
    bits: int,
    grid: Grid,
    room: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    full = (torch.ldexp(largest, -exponent) / grid.top(bits)).clamp_min(TINY)
    best, error = full, _errors(weight, full, bits, grid, room)
    for ratio in starts_of(bits, grid, weight.shape[1]):
        best, error = _better(weight, (full * ratio).clamp_min(TINY), best, error, bits, grid, room)
    for _ in range(REFINEMENTS):
        level = _levels(weight, best, bits, grid, room)
        power = torch.linalg.vector_norm(level, dim=1).square()
        fitted = torch.linalg.vecdot(weight, level) / power.clamp_min(1)
        scale = torch.where(fitted > TINY, fitted, best)
        best, error = _better(weight, scale, best, error, bits, grid, room)
    scale = torch.ldexp(best, exponent).clamp_min(TINY)
    # A channel of zeros needs no particular scale; 1 keeps products with the activation scale away from underflow.
    if grid is Grid.MID_TREAD:
        scale = torch.where(largest == 0, torch.ones_like(scale), scale)
    return scale, torch.ldexp(error.double(), 2 * exponent)


def _better(
    weight: torch.Tensor,
    scale: torch.Tensor,
    best: torch.Tensor,
    error: torch.Tensor,
    bits: int,
    grid: Grid,
    room: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take ``scale`` in the channels where it has a smaller error."""
    found = _errors(weight, scale, bits, grid, room)
    lower = found < error
    return torch.where(lower, scale, best), torch.where(lower, found, error)


def _levels(
    weight: torch.Tensor, scale: torch.Tensor, bits: int, grid: Grid, room: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Nearest levels in units of the scale; ``room`` then holds weight / scale, and the levels."""
    ratio, level = room
    torch.div(weight, scale[:, None], out=ratio)
    half = 2 ** (bits - 1)
    if grid is Grid.MID_RISE:
        torch.mul(ratio, 0.5, out=level)
        level.floor_().clamp_(-half, half - 1).mul_(2).add_(1)
    else:
        torch.round(ratio, out=level)
        level.clamp_(-half, half - 1)
    return level


def _errors(
    weight: torch.Tensor, scale: torch.Tensor, bits: int, grid: Grid, room: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Squared error of each channel, float32 (rows,)."""
    level = _levels(weight, scale, bits, grid, room)
    error: torch.Tensor = torch.linalg.vector_norm(room[0].sub_(level), dim=1).square() * (scale * scale)
    return error
