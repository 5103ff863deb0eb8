"""Two plans for one budget, one width for each layer against groups of channels, to be compared on images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from lampq_onnx.allocation import AllocationOptions, FormSolution, Limits, Solution, budgeted_layers
from lampq_onnx.allocation.fallback import layers_or_groups
from lampq_onnx.allocation.mixed_widths import own_groups
from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.config.options import BudgetOptions
from lampq_onnx.config.stages import compares
from lampq_onnx.errors import LampqError

Planned = tuple[BitPlan, Solution | FormSolution]
Make = Callable[[AllocationOptions], Planned]

TRIES = 6
"""Most plans with groups that are made to find one of as many bytes as that of the layers."""

CLOSE = 1e-3
"""Files of equal bytes differ by at most this share of the bits of the weights."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rivals:
    """The plans that the budget allows.

    Attributes:
        layers: the plan with one width for each layer.
        groups: the plan with groups of channels.
        equal: the plan with groups in a file of no more bytes than that of the layers, which is compared with it.
    """

    layers: Planned
    groups: Planned
    equal: BitPlan


def is_open(sensitivities: Sensitivities, options: AllocationOptions, budgets: BudgetOptions) -> bool:
    """Whether images decide between layers and groups: the options leave it open, and what was measured allows both.

    Args:
        sensitivities: what was measured.
        options: of the allocation, with the granularity that the target allows.
        budgets: budgets beside average bits.
    """
    if not compares(options, budgets):
        return False
    return own_groups(sensitivities, options.for_measured(sensitivities)) is not None


def rivals(make: Make, sensitivities: Sensitivities, options: AllocationOptions, limits: Limits) -> Rivals | Planned:
    """Make both plans; where the budget allows only one of them, return that.

    Where average bits are the only budget, nodes that unpack groups take bytes beside it. So groups are compared at as
    many fewer bits as these bytes are worth.

    Args:
        make: finds the plan of options within the budgets.
        sensitivities: what was measured.
        options: of the allocation.
        limits: the budgets.

    Raises:
        LampqError: the budgets cannot be met; says what one width for each layer would need, which is less.
    """
    layer, group = (options.with_values(granularity=name) for name in ("layer", "group"))
    found = layers_or_groups(lambda: make(layer), lambda: make(group))
    if len(found) == 1:
        return found[0]
    layers, groups = found
    if all(own.channel_widths is None for own in groups[0].layers.values()):
        return layers
    if not limits.only_bits:
        return Rivals(layers, groups, groups[0])
    equal = _in_bytes(make, group, groups[0], layers[0].promised_bytes, sensitivities)
    return layers if equal is None else Rivals(layers, groups, equal)


def _in_bytes(
    make: Make, options: AllocationOptions, plan: BitPlan, most: int | None, sensitivities: Sensitivities
) -> BitPlan | None:
    """The plan with groups of the most bits in a file of ``most`` bytes; None: none was found."""
    weights = sum(layer.parameters for layer in budgeted_layers(sensitivities))
    bits, fitting = options.bits, None
    # The bytes are a line in the bits, but for steps where no layer or one more width needs nodes.
    fits, exceeds = float(options.candidates[0]), options.bits
    for _ in range(TRIES):
        size = plan.promised_bytes
        if size is None or most is None:
            return plan
        spare = 8 * (most - size) / weights
        if spare >= 0:
            fits, fitting = bits, plan
            if spare <= CLOSE * bits:
                break
        else:
            exceeds = bits
        bits = bits + spare - (spare < 0) * CLOSE * bits / 2
        if not fits < bits < exceeds:
            bits = (fits + exceeds) / 2
        if exceeds - fits <= CLOSE * bits:
            break
        try:
            plan = make(options.with_values(bits=bits))[0]
        except LampqError as refusal:
            _log.info("no more plans with groups are compared: %s", refusal)
            break
    return fitting
