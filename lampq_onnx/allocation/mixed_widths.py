"""Mixes of widths under a budget of average bits, and their way into the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray
from lampq_onnx.allocation.groups import ChannelGroups, RowCounts, groups_of
from lampq_onnx.allocation.metrics import budgeted_layers
from lampq_onnx.allocation.mix_search import Mix, MixSolution
from lampq_onnx.allocation.mixes import MixKind, linear_costs
from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.allocation.problem import Solution
from lampq_onnx.artifacts import LayerPlan, LayerSensitivity, Sensitivities
from lampq_onnx.errors import LampqError


def mixes_in_bits(
    layers: Sequence[LayerSensitivity],
    groups: Sequence[ChannelGroups | None],
    widths: tuple[int, ...],
    costs: FloatArray,
    beside: FloatArray,
    amounts: Sequence[FloatArray | IntArray],
) -> MixKind:
    """Mixes under a budget of weight bits, and budgets of which all mixes take the same.

    Args:
        layers: layers in the budget.
        groups: their channels.
        widths: candidates.
        costs: (n, b) costs of whole layers at these widths.
        beside: (n,) cost beside that of the weights.
        amounts: for each budget (n,) what a layer takes beside its weights.
    """
    inputs = np.array([layer.shape[1] for layer in layers], dtype=np.int64)
    none = np.zeros_like(costs)
    bits = inputs[:, None] * np.array(widths, dtype=np.float64)

    def exact(index: int, mix: RowCounts) -> tuple[float, list[int]]:
        own = groups[index]
        assert own is not None
        cost = float(beside[index]) + linear_costs(own, mix, costs[index].tolist(), widths)
        used = [int(amount[index]) for amount in amounts]
        return cost, [used[0] + int(inputs[index]) * sum(bits * count for bits, count in mix), *used[1:]]

    return MixKind(
        groups=tuple(groups),
        widths=widths,
        fixed=np.stack([beside, *(np.asarray(amount, dtype=np.float64) for amount in amounts)]),
        by_share=np.stack([costs, *(none for _ in amounts)]),
        by_row=np.stack([none, bits, *(none for _ in amounts[1:])]),
        exact=exact,
    )


def widths_of(
    solved: MixSolution, layers: Sequence[LayerSensitivity], pairs: Sequence[tuple[int, int]], inputs: Sequence[int]
) -> tuple[Solution, dict[str, RowCounts]]:
    """Translate options to widths; a layer with a mix has the widest of its widths in ``Solution.bits``."""
    taken = {
        layer.name: (own.counts[-1][0], inputs[own.kind]) if isinstance(own, Mix) else pairs[own]
        for layer, own in zip(layers, solved.taken, strict=True)
    }
    found = solved.found
    solution = Solution(
        bits={name: pair[0] for name, pair in taken.items()},
        objective=found.objective,
        bound=found.bound,
        gap=found.gap,
        proven_optimal=found.proven_optimal,
        seconds=found.seconds,
        activation_bits={name: pair[1] for name, pair in taken.items() if pair[1]},
    )
    return solution, {
        layer.name: own.counts for layer, own in zip(layers, solved.taken, strict=True) if isinstance(own, Mix)
    }


def own_groups(sensitivities: Sensitivities, options: AllocationOptions) -> list[ChannelGroups | None] | None:
    """Return the channel groups of the layers in the budget; None: every layer has one width.

    Raises:
        LampqError: groups were asked for, and no shares of channels were measured.
    """
    if options.granularity == "layer" or options.activation_bits == "same":
        return None
    layers = budgeted_layers(sensitivities)
    if all(layer.channel_shares is None for layer in layers):
        if options.granularity == "group":
            raise LampqError(
                f"the sensitivities of {sensitivities.model.name} hold no shares of output channels",
                hint="measure them again with --granularity group, or use --granularity layer",
            )
        return None
    return [groups_of(layer) for layer in layers]


def with_mix(layer: LayerSensitivity, plan: LayerPlan, mix: RowCounts | None) -> LayerPlan:
    """Return a layer's entry of the plan with the widths of its output channels, if these differ."""
    groups = None if mix is None else groups_of(layer)
    if mix is None or groups is None:
        return plan
    return plan.model_copy(update={"weight_bits": mix[-1][0], "channel_widths": groups.widths(mix)})
