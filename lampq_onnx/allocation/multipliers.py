"""Prices of several budgets: the maximum of the Lagrangian bound, by the ellipsoid method.

L(lambda) = sum_i min_k (cost_ik + sum_j lambda_j weight_jik) - sum_j lambda_j free_j is concave and bounds the problem
from below at every lambda >= 0. The ellipsoid method (Shor; Yudin and Nemirovski, 1976; deep cuts as in Bland,
Goldfarb and Todd, "The Ellipsoid Method: A Survey", Operations Research 29, 1981) needs no step sizes and no scaling:
it is invariant under affine maps, so prices may differ by decades, and for a handful of budgets
a few hundred evaluations reach double precision. Linear programming solvers stop at absolute tolerances instead.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray

_ITERATIONS = 200
"""Maximum evaluations, times m^2 for m budgets; each shrinks the volume by at least exp(-1 / (2 (m + 1)))."""

_PRECISION = 1e-15
"""The search ends when the bound cannot rise by more than this fraction of itself."""


@dataclass(frozen=True, eq=False)
class _Dual:
    """The Lagrangian bound, with each budget in units of its largest weight."""

    costs: FloatArray
    weights: FloatArray
    free: FloatArray

    def at(self, prices: FloatArray) -> tuple[float, FloatArray]:
        """Return the value of the bound at these prices, and a supergradient."""
        priced = self.costs.copy()
        for price, weights in zip(prices.tolist(), self.weights, strict=True):
            if price:
                priced += price * weights
        choice = priced.argmin(axis=1)
        layers = np.arange(len(choice))
        value = float(priced[layers, choice].sum() - prices @ self.free)
        gradient: FloatArray = self.weights[:, layers, choice].sum(axis=1) - self.free
        return value, gradient


def find_multipliers(costs: FloatArray, weights: IntArray, free: IntArray) -> FloatArray:
    """Find multipliers >= 0 whose Lagrangian bound is the highest up to rounding, shape (m,).

    Args:
        costs: (n, k) each layer's cheapest option costs 0; +inf: not available.
        weights: (m, n, k) weights above each layer's least.
        free: (m,) capacities above the least, >= 0.
    """
    layer = np.maximum(weights.max(axis=(1, 2)), 1).astype(np.float64)
    dual = _Dual(costs, weights / layer[:, None, None], free / layer)
    prices = _ellipsoid(dual, _radii(dual))
    # A budget that does not bind has the price 0, which the ellipsoid only approaches.
    kept = [prices * np.array(mask) for mask in itertools.product((0.0, 1.0), repeat=len(prices))]
    values = [dual.at(candidate)[0] for candidate in kept]
    multipliers: FloatArray = kept[int(np.argmax(values))] / layer
    return multipliers


def _radii(dual: _Dual) -> FloatArray:
    """Return the prices beyond which every layer takes its least of a budget, whatever that costs."""
    spread = np.where(np.isfinite(dual.costs), dual.costs, 0.0).max(axis=1)
    least = np.where(dual.weights > 0, dual.weights, np.inf).min(axis=2)
    highest: FloatArray = (spread / least).max(axis=1)
    return 2.0 * len(highest) * np.maximum(highest, 1e-300)


def _ellipsoid(dual: _Dual, radii: FloatArray) -> FloatArray:
    """Return the best prices seen in ellipsoids {center + B z, |z| <= 1} that start around the box of the radii."""
    m = len(radii)
    center = radii / 2
    shape = np.diag(radii / 2 * math.sqrt(m))
    best, best_value = np.zeros(m), dual.at(np.zeros(m))[0]
    for _ in range(_ITERATIONS * m * m):
        lowest = int(center.argmin())
        if center[lowest] < 0:
            gradient = np.eye(m)[lowest]
            depth = -float(center[lowest])
            tolerance = 0.0
        else:
            value, gradient = dual.at(center)
            if value > best_value:
                best, best_value = center.copy(), value
            depth = best_value - value
            tolerance = _PRECISION * abs(best_value)
        direction = shape.T @ gradient
        reach = float(np.linalg.norm(direction))
        # The amount by which the bound can rise inside the ellipsoid, or the cut leaves nothing of it.
        if not reach > max(tolerance, depth):
            break
        cut = depth / reach
        z = direction / reach
        center = center + (1 + m * cut) / (m + 1) * (shape @ z)
        shrink = math.sqrt(1 - 2 * (1 + m * cut) / ((m + 1) * (1 + cut)))
        grow = math.sqrt((1 - cut * cut) * m * m / (m * m - 1))
        shape = grow * (shape + (shrink - 1) * np.outer(shape @ z, z))
    return best
