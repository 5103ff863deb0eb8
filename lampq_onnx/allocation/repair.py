"""From prices to choices that keep all budgets: first undo what exceeds them, then spend what is left."""

from __future__ import annotations

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray, taken

_TIE = 1e-12
"""Added to a price, so that among changes without cost the most helpful one is taken."""

_PAIRED = 1000
"""Number of changes that are tried in pairs: a million pairs take about 10 ms."""

_EXCHANGES = 50
"""Maximum number of pairs applied."""


def repair(reduced: FloatArray, weights: IntArray, free: IntArray) -> IntArray | None:
    """Find a choice within all budgets near the best one at these prices; None if single changes do not lead to one.

    Args:
        reduced: (n, k) extra cost of an option over the layer's best at the prices; +inf: not available.
        weights: (m, n, k) weights above each layer's least.
        free: (m,) capacities above the least.
    """
    units = np.arange(reduced.shape[0])
    choice: IntArray = reduced.argmin(axis=1)
    over = taken(weights, choice) - free
    norm = np.maximum(free, 1).astype(np.float64)[:, None, None]
    while (over > 0).any():
        change = weights - weights[:, units, choice][:, :, None]
        after = np.maximum(over[:, None, None] + change, 0) / norm
        relief = float((np.maximum(over, 0) / norm[:, 0, 0]).sum()) - after.sum(axis=0)
        extra = np.maximum(reduced - reduced[units, choice][:, None], 0) + _TIE
        helps = (relief > 0) & np.isfinite(reduced)
        if not helps.any():
            return None
        price = np.where(helps, extra / np.where(helps, relief, 1), np.inf)
        unit, option = np.unravel_index(int(price.argmin()), price.shape)
        over = over + change[:, unit, option]
        choice[unit] = option
    return choice


def improve(costs: FloatArray, weights: IntArray, free: IntArray, choice: IntArray) -> IntArray:
    """Spend what a choice leaves of the budgets on single changes, largest saving first."""
    units = np.arange(len(choice))
    choice = choice.copy()
    left = free - taken(weights, choice)
    while True:
        saved = costs[units, choice][:, None] - costs
        extra = weights - weights[:, units, choice][:, :, None]
        saved[(extra > left[:, None, None]).any(axis=0)] = 0.0
        unit, option = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[unit, option] <= 0:
            return choice
        left = left - extra[:, unit, option]
        choice[unit] = option


def exchange(costs: FloatArray, reduced: FloatArray, weights: IntArray, free: IntArray, choice: IntArray) -> IntArray:
    """Improve a choice that keeps all budgets by changing two layers at once, as long as that saves.

    Only changes to the options with the smallest reduced costs are tried: the others cannot be part of a good choice.
    """
    choice = choice.copy()
    all_units = np.arange(len(choice))
    others = reduced.copy()
    others[all_units, choice] = np.inf
    order = np.argsort(others, axis=None, kind="stable")[:_PAIRED]
    unit, option = np.unravel_index(order[np.isfinite(others.ravel()[order])], others.shape)
    if not unit.size:
        return choice
    same = unit[:, None] == unit[None, :]
    for _ in range(_EXCHANGES):
        left = free - taken(weights, choice)
        saved = costs[unit, choice[unit]] - costs[unit, option]
        extra = weights[:, unit, option] - weights[:, unit, choice[unit]]
        both = saved[:, None] + saved[None, :]
        both[same] = -np.inf
        for more, room in zip(extra, left.tolist(), strict=True):
            both[more[:, None] + more[None, :] > room] = -np.inf
        first, second = np.unravel_index(int(both.argmax()), both.shape)
        if both[first, second] <= 0:
            break
        choice[unit[first]] = option[first]
        choice[unit[second]] = option[second]
    return improve(costs, weights, free, choice)
