"""Pairs rows of two answers whose order may differ: detectors sort their queries by scores that rounding changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def cheapest_pairs(costs: Floats) -> Rows:
    """Give every row its own column so that the sum of the costs is smallest.

    Args:
        costs: (n, rows, rows), for n images.

    Returns:
        Column of each row, (n, rows).
    """
    found = costs.argmin(2)
    # If no two rows want the same column, nothing is cheaper. Equal rows keep their place.
    diagonal = np.take_along_axis(costs, np.arange(costs.shape[1])[None, :, None], 2)[..., 0]
    lowest = np.take_along_axis(costs, found[..., None], 2)[..., 0]
    found = np.where(diagonal <= lowest, np.arange(costs.shape[1]), found)
    taken_twice = np.nonzero((np.sort(found, 1) != np.arange(costs.shape[1])).any(1))[0]
    if taken_twice.size:
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 -- 38 MB, which only detectors need

        for image in taken_twice:
            found[image] = linear_sum_assignment(costs[image])[1]
    return found.astype(np.int64)


def in_order_of(reference: npt.NDArray[np.floating], rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Bring the rows (n, rows, k) into the order in which they are nearest to those of the reference."""
    own, other = reference.astype(np.float64), rows.astype(np.float64)
    squares = (own**2).sum(-1)[:, :, None] + (other**2).sum(-1)[:, None]
    pairs = cheapest_pairs(squares - 2 * own @ other.transpose(0, 2, 1))
    return np.take_along_axis(rows, pairs[..., None], 1)
