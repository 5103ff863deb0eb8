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
from lampq_onnx.frontend.simulation.columns import Columns, Levels
from lampq_onnx.frontend.simulation.levels import dequantized
from lampq_onnx.quantization import QuantizedWeight, WeightGrid

DAMPING = 0.01
"""Fraction of the mean diagonal that is added to H, GPTQ's own value."""

BLOCK = 32
"""Columns whose updates are collected into one product; affects the time but not the result.

GPTQ itself uses 128; on a CPU, fewer columns per elementwise update and more products are faster.
"""

INVERTED = 384
"""Columns of the inverse factor that are solved together: for 3072 columns .31 s instead of .57 s for all at once."""

GRAPHED = 4
"""Blocks of columns from which a GPU replays a CUDA graph: to make one takes as long as about two blocks."""


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
        factor = _inverse(lower)
        del lower
    return Factor(order, factor.float().flip(0, 1), damping * mean)


def _inverse(lower: torch.Tensor) -> torch.Tensor:
    """The inverse of a lower triangular matrix, `INVERTED` columns at a time: above them it is zero."""
    found = torch.zeros_like(lower)
    for start in range(0, len(lower), INVERTED):
        rest = lower[start:, start:]
        identity = torch.eye(len(rest), min(INVERTED, len(rest)), dtype=lower.dtype, device=lower.device)
        found[start:, start : start + INVERTED] = torch.linalg.solve_triangular(rest, identity, upper=False)
    return found


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
    levels = Levels(grids, device)
    columns = Columns(levels, graphed=inputs >= GRAPHED * BLOCK)
    # One row per column of the weight: all grids lie side by side, and every step works on whole rows.
    work = weight[:, found.order].float().T.repeat(1, count)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=device)
    real = torch.empty_like(work) if latent else None
    losses = torch.zeros(work.shape[1], dtype=torch.float64, device=device)
    factor, diagonal = found.factor, found.factor.diagonal()
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        block, part = slice(start, stop), work[start:stop]
        errors, numbers = columns.round(part, factor[block, block], diagonal[block], found.order[block])
        if real is not None:
            real[block] = part
        codes[block] = (numbers + levels.half).to(torch.uint8)
        losses += errors.square().sum(0, dtype=torch.float64)
        if stop < inputs:
            work[stop:].addmm_(factor[block, stop:].T, errors, alpha=-1)
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
