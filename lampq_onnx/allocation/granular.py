"""The better of two plans, with one width for each layer or with groups of channels, where bytes count.

Layers whose output channels differ in width share nodes that unpack them. A program with such layers keeps their bytes
free whatever it chooses, and in small files these may cost more than the groups gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lampq_onnx.allocation.fallback import layers_or_groups
from lampq_onnx.allocation.forms import pools_beside
from lampq_onnx.allocation.groups import ChannelGroups
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.within import FormSolution
from lampq_onnx.artifacts import LayerSensitivity

Solve = Callable[[Sequence[ChannelGroups | None] | None], FormSolution]
"""Groups of the layers in the budget, or None for one width in each layer -> the forms of least cost."""


def solve_granular(
    solve: Solve, groups: Sequence[ChannelGroups | None] | None, limits: Limits, layers: Sequence[LayerSensitivity]
) -> FormSolution:
    """Find the forms of least cost, with groups of channels where these are worth the bytes of their nodes.

    Args:
        solve: finds forms, see `solve_forms`.
        groups: output channels of the layers in the budget; None: every layer has one width.
        limits: what must not be exceeded.
        layers: the layers in the budget.

    Raises:
        UsageError: see `solve_forms`.
        LampqError: the limits cannot be kept; says what one width for each layer would need, which is less.
    """
    if groups is None or (limits.max_bytes is None and limits.min_agreement is None):
        return solve(groups)
    found = layers_or_groups(lambda: solve(None), lambda: solve(groups))
    if len(found) == 1:
        return found[0]  # a budget may hold the layers, and not the nodes of groups beside them
    whole, mixed = found
    extra = pools_beside(layers, mixed.forms) if limits.min_agreement is not None else 0
    objective, bound = mixed.objective + extra, min(whole.bound, mixed.bound)
    chosen = mixed if objective < whole.objective else whole
    least = min(objective, whole.objective)
    return replace(
        chosen,
        objective=least,
        bound=bound,
        gap=(least - bound) / least if least > 0 else 0.0,
        proven_optimal=chosen.proven_optimal and bound >= chosen.bound,
        seconds=whole.seconds + mixed.seconds,
    )
