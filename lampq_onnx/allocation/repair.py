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
    layers = np.arange(reduced.shape[0])
    choice: IntArray = reduced.argmin(axis=1)
    over = taken(weights, choice) - free
    norm = np.maximum(free, 1).astype(np.float64)[:, None, None]
    while (over > 0).any():
        change = weights - weights[:, layers, choice][:, :, None]
        after = np.maximum(over[:, None, None] + change, 0) / norm
        relief = float((np.maximum(over, 0) / norm[:, 0, 0]).sum()) - after.sum(axis=0)
        extra = np.maximum(reduced - reduced[layers, choice][:, None], 0) + _TIE
        helps = (relief > 0) & np.isfinite(reduced)
        if not helps.any():
            return None
        price = np.where(helps, extra / np.where(helps, relief, 1), np.inf)
        layer, option = np.unravel_index(int(price.argmin()), price.shape)
        over = over + change[:, layer, option]
        choice[layer] = option
    return choice


def improve(costs: FloatArray, weights: IntArray, free: IntArray, choice: IntArray) -> IntArray:
    """Spend what a choice leaves of the budgets on single changes, largest saving first."""
    layers = np.arange(len(choice))
    choice = choice.copy()
    left = free - taken(weights, choice)
    while True:
        saved = costs[layers, choice][:, None] - costs
        extra = weights - weights[:, layers, choice][:, :, None]
        saved[(extra > left[:, None, None]).any(axis=0)] = 0.0
        layer, option = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[layer, option] <= 0:
            return choice
        left = left - extra[:, layer, option]
        choice[layer] = option


def exchange(costs: FloatArray, reduced: FloatArray, weights: IntArray, free: IntArray, choice: IntArray) -> IntArray:
    """Improve a choice that keeps all budgets by changing two layers at once, as long as that saves.

    Only changes to the options with the smallest reduced costs are tried: the others cannot be part of a good choice.
    """
    choice = choice.copy()
    all_layers = np.arange(len(choice))
    others = reduced.copy()
    others[all_layers, choice] = np.inf
    order = np.argsort(others, axis=None, kind="stable")[:_PAIRED]
    layer, option = np.unravel_index(order[np.isfinite(others.ravel()[order])], others.shape)
    if not layer.size:
        return choice
    same = layer[:, None] == layer[None, :]
    for _ in range(_EXCHANGES):
        left = free - taken(weights, choice)
        saved = costs[layer, choice[layer]] - costs[layer, option]
        extra = weights[:, layer, option] - weights[:, layer, choice[layer]]
        both = saved[:, None] + saved[None, :]
        both[same] = -np.inf
        for more, room in zip(extra, left.tolist(), strict=True):
            both[more[:, None] + more[None, :] > room] = -np.inf
        first, second = np.unravel_index(int(both.argmax()), both.shape)
        if both[first, second] <= 0:
            break
        choice[layer[first]] = option[first]
        choice[layer[second]] = option[second]
    return improve(costs, weights, free, choice)
