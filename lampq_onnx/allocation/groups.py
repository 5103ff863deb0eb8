"""Output channels of one layer in groups that get a width together, and the mixes of widths that they form.

Channels are sorted by their share in the layer's cost. Neighbours in this order form a group. The cheapest groups get
the narrowest width, so a mix is fully described by the number of channels of each width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray
from lampq_onnx.artifacts import ChannelWidths, LayerSensitivity

GROUP = 16
"""Channels of one group. DeiT-Ti at 3 bits: groups of 8, 16, 32 and 64 channels give a KL of .175, .176, .182, .184."""

RowCounts = tuple[tuple[int, int], ...]
"""Pairs of width and number of output channels, ascending in width; at least two pairs."""


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The output channels of one layer, sorted and grouped.

    Attributes:
        order: all channels, the cheapest first.
        rows: int64 (groups,), channels of each group.
        shares: float64 (groups,), share of each group in the layer's cost; they sum to 1.
    """

    order: tuple[int, ...]
    rows: IntArray
    shares: FloatArray

    @cached_property
    def _before(self) -> FloatArray:
        """Share of the groups before a boundary between groups, (groups + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.shares)])

    @cached_property
    def _ends(self) -> IntArray:
        """Channels before a boundary between groups, (groups + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rows)])

    def shares_of(self, counts: Sequence[int]) -> FloatArray:
        """Return the share of the channels of each width in the layer's cost.

        A boundary inside a group, as a person may write it, cuts the group's share evenly.

        Args:
            counts: channels of each width, the narrowest width first.
        """
        found: FloatArray = np.diff(np.interp(np.concatenate([[0], np.cumsum(counts)]), self._ends, self._before))
        return found

    def widths(self, counts: RowCounts) -> ChannelWidths:
        """Return a mix as the widths of the layer's channels."""
        return ChannelWidths(counts=dict(counts), order=self.order)


def groups_of(layer: LayerSensitivity, size: int = GROUP) -> ChannelGroups | None:
    """Sort the channels of a layer and group them; None if their shares were not measured or form a single group.

    Args:
        layer: the layer.
        size: channels of one group; a rest is spread over all groups.
    """
    if layer.channel_shares is None:
        return None
    shares = np.array(layer.channel_shares, dtype=np.float64)
    count = round(len(shares) / size)
    if count < 2:
        return None
    order = np.argsort(shares, kind="stable")
    parts = np.array_split(order, count)
    return ChannelGroups(
        order=tuple(order.tolist()),
        rows=np.array([len(part) for part in parts], dtype=np.int64),
        shares=np.array([shares[part].sum() for part in parts]) / shares.sum(),
    )
