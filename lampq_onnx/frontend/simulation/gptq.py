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
import torch

from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.quantization import QuantizedWeight, WeightGrid

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
            Each one lies nearest to its level.
    """

    weight: QuantizedWeight
    latent: torch.Tensor


def gptq_quantize(
    weight: torch.Tensor, grids: Sequence[WeightGrid], hessian: torch.Tensor, *, damping: float = DAMPING
) -> list[GptqResult]:
    """Round ``weight`` on each of ``grids`` so that the layer's output changes little.

    Inputs with large energy are rounded first, like GPTQ's `act_order`: most columns are then left to compensate their
    error.

    Args:
        weight: float32 (outputs, inputs).
        grids: levels and scales, which do not change; all grids are processed together, and the rows of one may differ
            in width.
        hessian: (inputs, inputs), positive semidefinite, in any scale, on the weight's device.
        damping: added to the diagonal of the hessian, as a fraction of its mean diagonal.

    Raises:
        ValueError: the shapes do not fit, or the hessian is not finite.
    """
    outputs, inputs = weight.shape
    if hessian.shape != (inputs, inputs):
        raise ValueError(f"the hessian is {tuple(hessian.shape)}, and the layer has {inputs} inputs")
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the hessian holds NaN or infinity")
    diagonal = hessian.diagonal().double()
    mean = float(diagonal.mean())
    if mean <= 0:  # all inputs of the layer are zero
        plain = weight.float().cpu().numpy()
        return [GptqResult(grid.quantize(plain), weight.clone()) for grid in grids]
    order = torch.argsort(-diagonal, stable=True)
    damped = hessian.double() + damping * mean * torch.eye(inputs, dtype=torch.float64, device=hessian.device)
    damped = damped[order][:, order]
    # Upper Cholesky factor of the inverse: row j holds how column j's error spreads over the columns after it.
    with torch_threads(SUM_THREADS):
        factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).float()
    device = weight.device
    scale = torch.stack([torch.from_numpy(grid.scale) for grid in grids]).to(device)
    rise = torch.stack([torch.from_numpy(grid.row_rises()) for grid in grids]).to(device)
    half = torch.stack([2.0 ** (torch.from_numpy(grid.row_bits()).float() - 1) for grid in grids]).to(device)
    work = weight[:, order].float().repeat(len(grids), 1, 1)
    numbers = torch.empty_like(work)
    latent = torch.empty_like(work)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        part = work[:, :, start:stop]
        errors = torch.empty_like(part)
        for j in range(stop - start):
            column = part[:, :, j]
            ratio = column / scale
            number = torch.where(rise, torch.floor(ratio * 0.5), torch.round(ratio))
            number = torch.minimum(torch.maximum(number, -half), half - 1)
            level = torch.where(rise, 2 * number + 1, number)
            latent[:, :, start + j] = column
            numbers[:, :, start + j] = number
            error = (column - level * scale) / factor[start + j, start + j]
            errors[:, :, j] = error
            part[:, :, j:] -= error[:, :, None] * factor[start + j, start + j : stop]
        if stop < inputs:
            work[:, :, stop:] -= errors @ factor[start:stop, stop:]
    back = torch.argsort(order)
    codes = (numbers + half[:, :, None])[:, :, back].to(torch.uint8).cpu().numpy()
    latent = latent[:, :, back]
    return [
        GptqResult(grid.with_codes(np.ascontiguousarray(codes[k])), latent[k].reshape(outputs, inputs))
        for k, grid in enumerate(grids)
    ]
