"""The better of two plans, with one width for each layer or with groups of channels, where bytes count.

Layers whose output channels differ in width share nodes that unpack them. A program with such layers keeps their bytes
free whatever it chooses, and in small files these may cost more than the groups gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lampq_onnx.allocation.fallback import layers_or_groups
from lampq_onnx.allocation.forms import beside_layers
from lampq_onnx.allocation.groups import ChannelGroups
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.within import FormSolution
from lampq_onnx.artifacts import LayerSensitivity
from lampq_onnx.targets import Target

Solve = Callable[[Sequence[ChannelGroups | None] | None], FormSolution]
"""Groups of the layers in the budget, or None for one width in each layer -> the forms of least cost."""


def solve_granular(
    solve: Solve,
    groups: Sequence[ChannelGroups | None] | None,
    limits: Limits,
    layers: Sequence[LayerSensitivity],
    target: Target,
) -> FormSolution:
    """Find the forms of least cost, with groups of channels where these are worth the bytes of their nodes.

    Args:
        solve: finds forms, see `solve_forms`.
        groups: output channels of the layers in the budget; None: every layer has one width.
        limits: what must not be exceeded.
        layers: the layers in the budget.
        target: where the file is to run, which decides what layers share in it.

    Raises:
        UsageError: see `solve_forms`.
        LampqError: the limits cannot be kept; says what one width for each layer would need, which is less.
    """

    def complete(own: Sequence[ChannelGroups | None] | None) -> FormSolution:
        solution = solve(own)
        if limits.min_agreement is None:
            return solution
        beside = beside_layers(layers, solution.forms, target)
        return replace(solution, objective=solution.objective + beside, bound=solution.bound + beside)

    if groups is None or (limits.max_bytes is None and limits.min_agreement is None):
        return complete(groups)
    found = layers_or_groups(lambda: complete(None), lambda: complete(groups))
    if len(found) == 1:
        return found[0]  # a budget may hold the layers, and not the nodes of groups beside them
    whole, mixed = found
    least, bound = min(whole.objective, mixed.objective), min(whole.bound, mixed.bound)
    chosen = mixed if mixed.objective < whole.objective else whole
    return replace(
        chosen,
        objective=least,
        bound=bound,
        gap=(least - bound) / least if least > 0 else 0.0,
        proven_optimal=chosen.proven_optimal and bound >= chosen.bound,
        seconds=whole.seconds + mixed.seconds,
    )
