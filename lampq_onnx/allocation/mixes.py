"""The best mix of widths inside each layer at given prices of the budgets.

At fixed prices every group of channels chooses its width by itself, so the best of exponentially many mixes takes no
search: only a layer that would get more widths than a layer may have looks through the sets of allowed widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lampq_onnx.allocation.choices import BoolArray, FloatArray, IntArray
from lampq_onnx.allocation.groups import ChannelGroups, RowCounts
from lampq_onnx.artifacts.channel_widths import MOST_WIDTHS


@dataclass(frozen=True, eq=False)
class MixKind:
    """All mixes of widths that layers can take in one storage with inputs of one width.

    Quantity 0 is the cost and the others are the budgets, in their order. What a mix takes of a quantity is at least

        fixed + sum over widths of (share of the channels in the cost) * by_share + (number of channels) * by_row,

    which bounds the cost of every mix from below; ``exact`` gives what it takes exactly.

    Attributes:
        groups: (n,) channels of each layer; None if a layer has no mixes.
        widths: (b,) widths in bits, ascending.
        fixed: (m + 1, n).
        by_share: (m + 1, n, b).
        by_row: (m + 1, n, b).
        exact: (layer, mix) -> cost, and whole numbers of each budget.
    """

    groups: tuple[ChannelGroups | None, ...]
    widths: tuple[int, ...]
    fixed: FloatArray
    by_share: FloatArray
    by_row: FloatArray
    exact: Callable[[int, RowCounts], tuple[float, list[int]]]

    @cached_property
    def _padded(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Layers that have mixes, shares (n', groups) and channels (n', groups) of their groups, filled with zeros."""
        layers = np.array([i for i, own in enumerate(self.groups) if own is not None], dtype=np.int64)
        own = [self.groups[i] for i in layers.tolist()]
        most = max((len(groups.rows) for groups in own if groups is not None), default=0)
        shares, rows = np.zeros((len(own), most)), np.zeros((len(own), most))
        for place, groups in enumerate(own):
            if groups is not None:
                shares[place, : len(groups.rows)], rows[place, : len(groups.rows)] = groups.shares, groups.rows
        return layers, shares, rows

    @cached_property
    def _subsets(self) -> tuple[tuple[int, ...], ...]:
        """Largest sets of widths that one layer may have."""
        return tuple(itertools.combinations(range(len(self.widths)), min(MOST_WIDTHS, len(self.widths))))

    def price(self, prices: FloatArray) -> tuple[FloatArray, dict[int, RowCounts]]:
        """Find the mix of least cost plus price for every layer.

        Args:
            prices: (m + 1,) price of each quantity; that of the cost is 1.

        Returns:
            (n,) a lower bound of the priced cost of any mix, infinite if a layer has none; and the mixes of the layers
            for which the best is a mix of at least two widths.
        """
        least = np.full(len(self.groups), np.inf)
        layers, shares, rows = self._padded
        if not layers.size:
            return least, {}
        by_share = np.tensordot(prices, self.by_share[:, layers], axes=1)
        by_row = np.tensordot(prices, self.by_row[:, layers], axes=1)
        table = shares[:, :, None] * by_share[:, None, :] + rows[:, :, None] * by_row[:, None, :]
        choice = table.argmin(axis=2)
        real = rows > 0
        taken = np.stack([(real & (choice == k)).any(axis=1) for k in range(len(self.widths))], axis=1)
        for place in np.flatnonzero(taken.sum(axis=1) > MOST_WIDTHS).tolist():
            choice[place] = self._fewer(table[place], real[place])
        value = np.take_along_axis(table, choice[:, :, None], axis=2)[:, :, 0].sum(axis=1)
        least[layers] = value + np.tensordot(prices, self.fixed[:, layers], axes=1)
        counts = np.stack([(rows * (choice == k)).sum(axis=1) for k in range(len(self.widths))], axis=1)
        mixed = counts.astype(np.int64)
        found = {
            layer: tuple((self.widths[k], int(own[k])) for k in np.flatnonzero(own).tolist())
            for layer, own in zip(layers.tolist(), mixed, strict=True)
        }
        return least, {layer: mix for layer, mix in found.items() if len(mix) > 1}

    def _fewer(self, table: FloatArray, real: BoolArray) -> IntArray:
        """Return the best width of each group within the best allowed set of widths."""
        own = table[real]
        best = min(self._subsets, key=lambda subset: float(own[:, subset].min(axis=1).sum()))
        found: IntArray = np.array(best)[table[:, best].argmin(axis=1)]
        return found


def linear_costs(groups: ChannelGroups, mix: RowCounts, costs: Sequence[float], widths: Sequence[int]) -> float:
    """Return the cost of a mix: each channel costs its share of the layer's cost at its width.

    Args:
        groups: channels of the layer.
        mix: channels of each width.
        costs: (b,) cost of the whole layer at each of ``widths``.
        widths: (b,) in bits.
    """
    shares = groups.shares_of([count for _, count in mix]).tolist()
    return float(sum(share * costs[widths.index(bits)] for share, (bits, _) in zip(shares, mix, strict=True)))
