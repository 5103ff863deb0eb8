"""Rounding that lets later inputs make up for the error of earlier ones (GPTQ, Frantar et al., ICLR 2023).

For a layer y = W x the squared output error is tr(dW H dW^T) with H = E[x x^T]. Columns of W are rounded one after the
other; the error of each is pushed onto those that are not rounded yet, by the Cholesky factor of the inverse of H.
Every token is normalized to length 1 before it enters H: a few tokens of a Vision Transformer are tens of times longer
than the rest and would own the objective, at the cost of all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.quantization.weights import QuantizedWeight, WeightGrid

FloatArray = npt.NDArray[np.floating[Any]]

DAMPING = 0.01
"""Share of the mean diagonal that is added to H, GPTQ's own value."""

BLOCK = 128
"""Columns whose updates are gathered into one product, GPTQ's own value; changes the time, not the result."""


def gptq_quantize(
    weight: FloatArray, grid: WeightGrid, hessian: FloatArray, *, damping: float = DAMPING
) -> QuantizedWeight:
    """Round ``weight`` on ``grid`` so that the layer's output changes little.

    Inputs of large energy are rounded first, as GPTQ's `act_order` does: most columns are left to take up their error.

    Args:
        weight: (outputs, inputs).
        grid: levels and scales, which stay as they are.
        hessian: (inputs, inputs), positive semidefinite, any scale.
        damping: of the hessian, as a share of its mean diagonal.

    Raises:
        ValueError: shapes do not fit, or the hessian is not finite.
    """
    inputs = weight.shape[1]
    if hessian.shape != (inputs, inputs):
        raise ValueError(f"the hessian is {hessian.shape}, and the layer has {inputs} inputs")
    if not np.isfinite(hessian).all():
        raise ValueError("the hessian holds NaN or infinity")
    mean = float(np.trace(hessian)) / inputs
    if mean <= 0:  # the layer never sees anything but zeros
        return grid.quantize(weight)
    damped = hessian.astype(np.float64) + damping * mean * np.eye(inputs)
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = damped[np.ix_(order, order)]
    # Upper Cholesky factor of the inverse: row j holds how column j's error spreads over the columns after it.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    work = weight[:, order].astype(np.float64)
    scale = grid.scale.astype(np.float64)[:, None]
    codes = np.empty(weight.shape, np.uint8)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.empty((weight.shape[0], stop - start))
        for j in range(start, stop):
            column = work[:, j : j + 1]
            code = grid.grid.codes_of(column / scale, grid.bits)
            level = grid.grid.level(code, grid.bits) * scale
            error = (column - level) / factor[j, j]
            work[:, j:stop] -= error * factor[j, j:stop]
            errors[:, j - start] = error[:, 0]
            codes[:, j] = code[:, 0]
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    restored = np.empty_like(codes)
    restored[:, order] = codes
    return QuantizedWeight(codes=restored, scale=grid.scale, bits=grid.bits, grid=grid.grid)
