"""GPTQ: rounding in which later inputs compensate the error of earlier ones (Frantar et al., ICLR 2023).

For a layer y = W x the squared output error is tr(dW H dW^T) with H = E[x x^T]. Columns of W are rounded one after the
other. The error of each column is distributed over the columns that are not rounded yet, by the Cholesky factor of the
inverse of H. Every token is normalized to length 1 before it enters H: a few tokens of a Vision Transformer are tens of
times longer than the rest and would dominate the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.frontend.simulation.levels import dequantized, float8_numbers
from lampq_onnx.quantization import Grid, QuantizedWeight, WeightGrid

DAMPING = 0.01
"""Fraction of the mean diagonal that is added to H, GPTQ's own value."""

BLOCK = 32
"""Columns whose updates are collected into one product; affects the time but not the result.

GPTQ itself uses 128; on a CPU, fewer columns per elementwise update and more products are faster.
"""


@dataclass(frozen=True)
class GptqResult:
    """Rounded weights, and the real weights they were rounded from.

    Attributes:
        weight: codes and scales.
        latent: float32 (outputs, inputs) on the weight's device: weights that compensate the errors of earlier columns.
            Each one lies nearest to its level. None if it was not asked for.
        errors: float64 (outputs,), the diagonal of dW H dW^T.
    """

    weight: QuantizedWeight
    latent: torch.Tensor | None
    errors: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of a hessian; widths and dampings of one layer share the order, and widths the factor.

    Attributes:
        order: int64 (inputs,), columns by falling energy.
        factor: float32 (inputs, inputs), upper Cholesky factor of the inverse: row j holds how column j's error spreads
            over the columns after it.
        damping: what was added to the diagonal.
    """

    order: torch.Tensor
    factor: torch.Tensor
    damping: float


def factorize(hessian: torch.Tensor, *, damping: float = DAMPING) -> Factor | None:
    """Factorize a hessian; None if all inputs of the layer are zero.

    Args:
        hessian: (inputs, inputs), positive semidefinite, in any scale.
        damping: added to its diagonal, as a fraction of its mean diagonal.

    Raises:
        ValueError: the hessian is not finite.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the hessian holds NaN or infinity")
    diagonal = hessian.diagonal().double()
    mean = float(diagonal.mean())
    if mean <= 0:
        return None
    order = torch.argsort(-diagonal, stable=True)
    back = order.flip(0)
    damped = hessian[back][:, back].double()  # of a wide layer, each of these takes 75 MB: none lives on
    damped.diagonal().add_(damping * mean)
    # With the columns reversed, H = L L^T, and the upper factor of the inverse is L^-1 reversed again.
    with torch_threads(SUM_THREADS):
        lower = torch.linalg.cholesky(damped)
        del damped
        identity = torch.eye(len(lower), dtype=torch.float64, device=lower.device)
        factor = torch.linalg.solve_triangular(lower, identity, upper=False)
        del lower, identity
    return Factor(order, factor.float().flip(0, 1), damping * mean)


def gptq_quantize(
    weight: torch.Tensor,
    grids: Sequence[WeightGrid],
    hessian: torch.Tensor,
    *,
    damping: float = DAMPING,
    latent: bool = True,
) -> list[GptqResult]:
    """Round ``weight`` on each of ``grids`` so that the layer's output changes little.

    Inputs with large energy are rounded first, like GPTQ's `act_order`: most columns are then left to compensate their
    error.

    Args:
        weight: float32 (outputs, inputs).
        grids: levels and scales, which do not change; all grids are processed together in one pass over the columns,
            and the rows of one may differ in width.
        hessian: (inputs, inputs), positive semidefinite, in any scale, on the weight's device.
        damping: added to the diagonal of the hessian, as a fraction of its mean diagonal.
        latent: whether the real weights are kept.

    Raises:
        ValueError: the shapes do not fit, or the hessian is not finite.
    """
    outputs, inputs = weight.shape
    if hessian.shape != (inputs, inputs):
        raise ValueError(f"the hessian is {tuple(hessian.shape)}, and the layer has {inputs} inputs")
    found = factorize(hessian, damping=damping)
    if found is None:
        plain = weight.float().cpu().numpy()
        none = np.zeros(outputs)
        return [GptqResult(grid.quantize(plain), weight.clone() if latent else None, none) for grid in grids]
    device, count = weight.device, len(grids)
    levels = _Levels(grids, device)
    places = found.order.tolist()
    # One row per column of the weight: all grids lie side by side, and every step works on whole rows.
    work = weight[:, found.order].float().T.repeat(1, count)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=device)
    real = torch.empty_like(work) if latent else None
    losses = torch.zeros(work.shape[1], dtype=torch.float64, device=device)
    factor, diagonal = found.factor, found.factor.diagonal().tolist()
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        part = work[start:stop]
        errors, numbers = torch.empty_like(part), torch.empty_like(part)
        for j in range(stop - start):
            column = part[j]
            number, level = levels.nearest(column, places[start + j])
            numbers[j] = number
            torch.sub(column, level, out=errors[j])
            errors[j].div_(diagonal[start + j])
            if j + 1 < stop - start:
                part[j + 1 :].addr_(factor[start + j, start + j + 1 : stop], errors[j], alpha=-1)
        if real is not None:
            real[start:stop] = part
        codes[start:stop] = (numbers + levels.half).to(torch.uint8)
        losses += errors.square().sum(0, dtype=torch.float64)
        if stop < inputs:
            work[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    back = torch.argsort(found.order)
    results = []
    for k, grid in enumerate(grids):
        rows = slice(k * outputs, (k + 1) * outputs)
        rounded = grid.with_codes(codes[back, rows].T.contiguous().cpu().numpy())
        # The losses of the columns add up to dW (H + damping) dW^T.
        change = (dequantized(rounded, weight) - weight).square_().sum(1, dtype=torch.float64)
        own = (losses[rows] - found.damping * change).clamp_min(0)
        kept = None if real is None else real[back, rows].T.contiguous()
        results.append(GptqResult(rounded, kept, own.cpu().numpy()))
    return results


class _Levels:
    """Nearest levels of one column on several grids at once.

    Args:
        grids: the grids, all with one scale for each output, or all with one for each block of as many inputs; and all
            of float8, or none.
        device: where the column is.
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

    def nearest(self, column: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the nearest levels of the column of input ``place``, and the levels as real weights."""
        scale = self._scales[0 if self._block is None else place // self._block]
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


def _joined(parts: Sequence[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)
