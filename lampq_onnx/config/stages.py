"""Which stages a run has: decided here, once, from its options; the run and its rehearsal both read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lampq_onnx.allocation.metrics import METRICS, Measurement
from lampq_onnx.allocation.options import AllocationOptions, Granularity
from lampq_onnx.artifacts.plan import FIXED_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.config.options import BudgetOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.targets import Target

InputCosts = Literal["none", "estimated", "grouped", "measured"]
"""How the costs of input widths are found.

none: nothing depends on them. estimated: to second order, from the gradients that choose the ranges. grouped: all
inputs of a block together, and one by one only where these cost enough to matter. measured: one by one, at every width.
"""

ROUNDED: frozenset[Measurement] = frozenset({"alpha", "weight_cost"})
"""Measurements of rounded weights."""

MEASUREMENTS: frozenset[Measurement] = frozenset().union(*(metric.reads for metric in METRICS.values()))
"""What the metrics read, all together."""


@dataclass(frozen=True)
class Stages:
    """The stages of one run that depend on its options; ranges, rounding and the check of the file always run.

    Attributes:
        equalization: whether input channels are equalized.
        moments: whether the second moments of the inputs of the float model are measured, for GPTQ on them.
        measurements: what is measured of the weights.
        input_costs: how the costs of input widths are found.
        shares: whether output channels may get widths of their own, for which their shares of the costs are measured.
        compares: whether images decide between layers and groups of channels, see `compares`.
        wide_price: see `AllocationOptions.wide_price`; decides which input costs are worth telling apart.
        simulated_plans: whether plans are simulated, from which agreement is predicted.
        update: whether swaps of widths are tried.
        layer_errors: whether the report says how far the output of each layer is off, and where the time goes.
    """

    equalization: bool = True
    moments: bool = True
    measurements: frozenset[Measurement] = MEASUREMENTS
    input_costs: InputCosts = "measured"
    shares: bool = True
    compares: bool = False
    wide_price: float = 0.0
    simulated_plans: bool = False
    update: bool = False
    layer_errors: bool = False

    @property
    def text(self) -> str:
        """The stages as text, the same for equal ones."""
        return f"{sorted(self.measurements)} {self.input_costs} {self.wide_price} {self.shares}"


EVERYTHING = Stages()
"""What `analyze` measures: its file serves every metric and budget."""


def shares_channels(granularity: Granularity, effort: str, activation_bits: int | str | None) -> bool:
    """Whether options ask for the shares of output channels, see `AllocationOptions.granularity`."""
    if granularity == "auto":
        return effort != "fast" and activation_bits != "same"
    return granularity == "group"


def compares(options: AllocationOptions, budgets: BudgetOptions) -> bool:
    """Whether images decide between layers and groups of channels for one plan, if shares of channels were measured.

    They do not where one of the two was asked for, or all layers get one width anyway. Under ``min_agreement`` the plan
    of fewer bytes is taken.

    Args:
        options: of the plan.
        budgets: budgets beside average bits.
    """
    if options.granularity != "auto" or budgets.min_agreement is not None:
        return False
    return budgets.given or options.only_width is None


def stages_of(recipe: Recipe, target: Target, *, metrics: Sequence[str] = (), bits: Sequence[float] = ()) -> Stages:
    """Decide which stages a run has; no stage runs whose result nothing would read.

    Args:
        recipe: all options.
        target: where the file is meant to run.
        metrics: metrics of the plans that are made; none: that of the recipe and its baselines.
        bits: average bits of the plans that are made; none: those of the recipe.
    """
    options, output = recipe.allocation, recipe.output
    own = metrics or (options.metric,)
    plans = [
        options.with_values(metric=metric, bits=budget)
        for metric in metrics or (*own, *output.baselines)
        for budget in bits or (options.bits,)
    ]
    simulates = recipe.analysis.simulate or recipe.budgets.min_agreement is not None
    only = not recipe.budgets.given
    open_weights = [plan for plan in plans if not (only and plan.only_width is not None)]
    needed: set[Measurement] = set()
    for plan in open_weights:
        needed |= METRICS[plan.metric].reads
    if simulates:
        needed |= METRICS["kl"].reads
    if output.figures == "all":
        needed |= METRICS["lampq"].reads
    fast = recipe.analysis.effort == "fast"
    rounds = fast and not (only and options.only_width == FIXED_BITS)
    updates = recipe.update.rounds > 0 and any(plan.metric == options.metric for plan in open_weights)
    storage = target.packing if output.packing == "auto" else output.packing
    whole_layers = options.granularity == "auto" and (
        not target.folds or target.block is not None or storage != "exact"
    )
    asked = shares_channels(options.granularity, recipe.analysis.effort, options.activation_bits)
    shares = bool(open_weights) and asked and not whole_layers
    few = output.figures == "few" or (output.figures == "auto" and fast)
    return Stages(
        equalization=recipe.analysis.equalize,
        moments=recipe.rounding.method == "gptq"
        and (rounds or updates or simulates or bool(needed & ROUNDED) or shares),
        measurements=frozenset(needed),
        input_costs="measured" if simulates or not only else _input_costs(recipe, target),
        shares=shares,
        compares=shares and any(compares(plan, recipe.budgets) for plan in plans if plan.metric in own),
        wide_price=options.wide_price,
        simulated_plans=simulates,
        update=updates,
        layer_errors=not few,
    )


def _input_costs(recipe: Recipe, target: Target) -> InputCosts:
    """How the costs of input widths are found where average bits are the only budgets."""
    options = recipe.allocation
    if isinstance(options.activation_bits, str):
        return "none" if options.only_input_width is not None else "measured"
    widens = target.kernel(FIXED_BITS, WIDE_ACTIVATION_BITS) is not None and options.wide_price != float("inf")
    if options.activation_bits != FIXED_BITS or not widens:
        return "none"
    return "estimated" if recipe.analysis.effort == "fast" else "grouped"
