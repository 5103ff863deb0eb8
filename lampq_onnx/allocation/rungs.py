"""Ladders of mixes for the iterative update: the mixes that a layer goes through when bits get cheaper."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from lampq_onnx.allocation.choices import FloatArray
from lampq_onnx.allocation.groups import ChannelGroups, RowCounts, groups_of
from lampq_onnx.allocation.metrics import METRICS, budgeted_layers
from lampq_onnx.allocation.mixed_widths import mixes_in_bits
from lampq_onnx.allocation.mixes import linear_costs
from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.artifacts import BitPlan, ChannelWidths, LayerSensitivity, Sensitivities

STEP = 0.5
"""Average bits between two rungs: about the gain of one swap that a hundred images can tell from chance."""

TINY = 1e-300
_PRICES = 2.0 ** np.linspace(-40, 20, 241)
"""Prices of a bit, in units of the layer's cost for each of its weights, at which mixes are looked for."""


@dataclass(frozen=True)
class Rung:
    """One step of a layer's ladder.

    Attributes:
        widths: one width for the layer, or those of its output channels.
        bits: bits of all its weights.
        cost: expected cost.
    """

    widths: int | ChannelWidths
    bits: int
    cost: float


def ladder_of(
    layer: LayerSensitivity,
    groups: ChannelGroups | None,
    costs: FloatArray,
    candidates: tuple[int, ...],
    start: int | ChannelWidths,
) -> tuple[list[Rung], int]:
    """Return the rungs of a layer and the index of the one that it starts from.

    Args:
        layer: the layer.
        groups: its output channels; None: the rungs are whole widths.
        costs: (b,) costs of the whole layer at the candidates.
        candidates: widths in bits, ascending.
        start: the widths that it has.
    """
    inputs = layer.shape[1]
    whole = {
        bits: Rung(bits, layer.parameters * bits, float(cost)) for bits, cost in zip(candidates, costs, strict=True)
    }
    found = dict[int, Rung]()
    if groups is None:
        found = {rung.bits: rung for rung in whole.values()}
    else:
        for mix in _mixes(layer, groups, costs, candidates):
            rung = _rung(mix, groups, inputs, costs, candidates)
            found[rung.bits] = rung
        found |= {rung.bits: rung for rung in (whole[candidates[0]], whole[candidates[-1]])}
    if isinstance(start, int):
        first = whole[start]
    else:
        assert groups is not None
        first = _rung(tuple(start.counts.items()), groups, inputs, costs, candidates)
    step = 0.99 * STEP * layer.parameters
    rungs = [first]
    for bits in sorted(found):
        if bits > rungs[-1].bits + step:
            rungs.append(found[bits])
    below: list[Rung] = []
    for bits in sorted(found, reverse=True):
        if bits < (below[-1] if below else first).bits - step:
            below.append(found[bits])
    return [*reversed(below), *rungs], len(below)


def _mixes(
    layer: LayerSensitivity, groups: ChannelGroups, costs: FloatArray, candidates: tuple[int, ...]
) -> dict[RowCounts, None]:
    """Return the best mixes of a layer at all prices, from that of the lowest price on."""
    count = len(_PRICES)
    none = np.zeros(count)
    copies = mixes_in_bits([layer] * count, [groups] * count, candidates, np.tile(costs, (count, 1)), none, (none,))
    unit = float(costs.max()) / layer.parameters
    priced = replace(copies, by_row=copies.by_row * (_PRICES * unit)[:, None])  # each copy at a price of its own
    return dict.fromkeys(priced.price(np.ones(2))[1].values())


def ladders_of(
    sensitivities: Sensitivities,
    plan: BitPlan,
    names: Collection[str],
    candidates: tuple[int, ...],
    options: AllocationOptions,
) -> tuple[dict[str, list[Rung]], dict[str, int]]:
    """Return the ladders of some layers of a plan, and the rungs that they start from.

    Args:
        sensitivities: costs of the layers, and shares of their output channels.
        plan: the widths that they have.
        names: layers in the budget that may change.
        candidates: widths in bits, ascending.
        options: the metric of the costs.
    """
    costs = METRICS[options.metric](sensitivities, candidates, options.gamma)
    ladders, start = {}, {}
    for layer, own in zip(budgeted_layers(sensitivities), costs, strict=True):
        if layer.name in names:
            widths = plan.layers[layer.name].widths
            ladders[layer.name], start[layer.name] = ladder_of(layer, groups_of(layer), own, candidates, widths)
    return ladders, start


def _rung(mix: RowCounts, groups: ChannelGroups, inputs: int, costs: FloatArray, candidates: tuple[int, ...]) -> Rung:
    cost = linear_costs(groups, mix, costs.tolist(), candidates)
    return Rung(groups.widths(mix), inputs * sum(bits * count for bits, count in mix), cost)
