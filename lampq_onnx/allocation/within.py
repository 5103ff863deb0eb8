"""Weight width, input width and storage of every layer in one integer program, under any mix of budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lampq_onnx.allocation.activations import activation_costs, fixed_activation_bits
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, FloatArray, IntArray
from lampq_onnx.allocation.forms import FLOAT_FORM, LayerForm, form_bytes, timed_multiply_adds
from lampq_onnx.allocation.groups import ChannelGroups, groups_of
from lampq_onnx.allocation.ilp import solve_choices
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.metrics import MEASURED_METRICS, METRICS, budgeted_layers
from lampq_onnx.allocation.mix_kinds import CostLimit, kinds_of_forms
from lampq_onnx.allocation.mix_search import Mix, solve_mixes
from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.allocation.resources import bytes_of_layers, refuse_no_effect, require_reachable, resources_of
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.quantization.pools import pool_bytes
from lampq_onnx.targets import Packing, Target

_COST_LEVELS = 10**9
"""A cost limit becomes a budget of whole numbers up to this."""


@dataclass(frozen=True)
class Usage:
    """What a solution takes of one budget, in the budget's unit, and whether one more step would break it."""

    name: str
    used: float
    limit: float
    binds: bool


@dataclass(frozen=True)
class FormSolution:
    """Forms of all layers in the budget, and how close to optimal they are known to be; see `Solution`."""

    forms: dict[str, LayerForm]
    objective: float
    bound: float
    gap: float
    proven_optimal: bool
    seconds: float
    usage: tuple[Usage, ...]

    @property
    def exact_widths(self) -> set[int]:
        """Widths of weights in exact storage."""
        return {bits for form in self.forms.values() if form.storage == "exact" for bits in form.widths}


def solve_forms(
    sensitivities: Sensitivities,
    forms: Sequence[LayerForm],
    limits: Limits,
    fixed: Mapping[str, LayerForm],
    target: Target,
    *,
    options: AllocationOptions,
    table: LatencyTable | None,
    float_bytes: int | None,
    groups: Sequence[ChannelGroups | None] | None = None,
) -> FormSolution:
    """Find the forms of least cost within all limits; with ``min_agreement``, those of least bytes.

    Without a latency limit nothing else would keep layers from the float kernel, on which they lose least and run
    slowest. So they pay for it, as in `wide_layers`.

    Args:
        sensitivities: what the front end measured.
        forms: forms to choose from; include float if a layer may stay in float.
        limits: at least one limit.
        fixed: forms of the layers outside the budget.
        target: where the file is to run, which decides a part of its size.
        options: what a width costs, and the seconds for the integer program. ``wide_price`` is what a whole model's
            worth of multiply-adds on the float kernel must save, without ``max_ms``.
        table: of the float file; needed for ``max_ms``.
        float_bytes: size of the float file; needed for ``max_bytes`` where there is no table.
        groups: output channels of the layers in the budget, if these may differ in width.

    Raises:
        UsageError: something that a limit needs is not given.
        LampqError: the limits cannot be kept, alone or together; nothing would be quantized within them; or a
            measurement is missing.
    """
    layers = budgeted_layers(sensitivities)
    if table is not None:
        table.require_layers(sensitivities.layers)
    pools = 0
    if groups is not None:
        shapes = {layer.name: layer.shape for layer, own in zip(layers, groups, strict=True) if own is not None}
        pools = pool_bytes(shapes, _widths(forms))
    resources = resources_of(sensitivities, forms, limits, fixed, target, table, float_bytes, pools)
    costs = form_costs(sensitivities, layers, forms, options)
    if limits.max_ms is None:
        costs = costs + _float_prices(layers, forms, options.wide_price * sensitivities.answers)
    budgets = [resource.budget(layers, forms) for resource in resources]
    objective, limit = costs, None
    if limits.min_agreement is not None:
        ceiling = _ceiling(sensitivities, limits.min_agreement, options.metric)
        limit = CostLimit(ceiling, _COST_LEVELS / ceiling)
        _require_agreement(sensitivities, limits.min_agreement, ceiling, float(costs.min(axis=1).sum()))
        budgets.append(_cost_budget(costs, ceiling))
        objective = np.array([[float(form_bytes(layer, form, target)) for form in forms] for layer in layers])
    if not budgets:
        raise UsageError("no budget is given", hint="give at least one, e.g. --bits 4 or --max-size 4MB")
    possible = np.isfinite(costs)
    for resource in resources:
        require_reachable(resource, layers, forms, possible)
    kept = _useful(objective, budgets)
    problem = ChoiceProblem(
        names=tuple(layer.name for layer in layers),
        options=tuple(str(forms[k]) for k in kept),
        costs=objective[:, kept],
        budgets=tuple(Budget(b.name, b.weights[:, kept], b.capacity, b.total, b.offset) for b in budgets),
    )
    if groups is None:
        found = solve_choices(problem, time_limit=options.time_limit)
        chosen = [forms[kept[k]] for k in found.choice.tolist()]
    else:
        smallest = None if limit is None else bytes_of_layers(target)
        weights = _weight_and_input_costs(sensitivities, layers, forms, options)[0]
        kinds = kinds_of_forms(layers, groups, forms, costs, weights, resources, smallest, limit)
        solved = solve_mixes(problem, [kind.mixes for kind in kinds], time_limit=options.time_limit)
        problem, found = solved.problem, solved.found
        chosen = [
            kinds[own.kind].form(own.counts) if isinstance(own, Mix) else forms[kept[own]] for own in solved.taken
        ]
    # Room for what quantized layers share is kept free also where none of them is worth it.
    in_float = float(costs[:, forms.index(FLOAT_FORM)].sum())
    free = limit is None and in_float <= found.objective and all(resource.slack(layers) for resource in resources)
    if free or all(form == FLOAT_FORM for form in chosen):
        refuse_no_effect(resources, layers, _best_agreement(sensitivities, limits, costs))
    return FormSolution(
        forms={layer.name: form for layer, form in zip(layers, chosen, strict=True)},
        objective=found.objective,
        bound=found.bound,
        gap=found.gap,
        proven_optimal=found.proven_optimal,
        seconds=found.seconds,
        usage=_usage(problem, found.choice),
    )


def form_costs(
    sensitivities: Sensitivities,
    layers: Sequence[LayerSensitivity],
    forms: Sequence[LayerForm],
    options: AllocationOptions,
) -> FloatArray:
    """Return the cost of every layer in every form, weights plus input, shape (n, k); float costs nothing.

    Raises:
        LampqError: a width was not measured.
    """
    widths, inputs = _widths(forms), _inputs(forms)
    costs = np.zeros((len(layers), len(forms)))
    if not widths:
        return costs
    weight_costs, input_costs = _weight_and_input_costs(sensitivities, layers, forms, options)
    for k, form in enumerate(forms):
        if form.storage is not None:
            costs[:, k] += weight_costs[:, widths.index(form.weight_bits)]
        if form.activation_bits != FLOAT_BITS:
            costs[:, k] += input_costs[:, inputs.index(form.activation_bits)]
    return costs


def _widths(forms: Sequence[LayerForm]) -> tuple[int, ...]:
    """Weight widths of the forms, ascending."""
    return tuple(sorted({form.weight_bits for form in forms if form.storage is not None}))


def _inputs(forms: Sequence[LayerForm]) -> tuple[int, ...]:
    """Input widths of the forms without float, ascending."""
    return tuple(sorted({form.activation_bits for form in forms if form.activation_bits != FLOAT_BITS}))


def _weight_and_input_costs(
    sensitivities: Sensitivities,
    layers: Sequence[LayerSensitivity],
    forms: Sequence[LayerForm],
    options: AllocationOptions,
) -> tuple[FloatArray, FloatArray]:
    """Costs of weights (n, widths) and inputs (n, input widths) in one unit."""
    weight_costs = METRICS[options.metric](sensitivities, _widths(forms), options.gamma)
    input_costs = activation_costs(layers, _inputs(forms))
    if options.metric not in MEASURED_METRICS:
        spreads = [float(np.ptp(costs, axis=1).max()) for costs in (weight_costs, input_costs)]
        if min(spreads) > 0:
            weight_costs = weight_costs * (spreads[1] / spreads[0])
    return weight_costs, input_costs


def _float_prices(layers: Sequence[LayerSensitivity], forms: Sequence[LayerForm], price: float) -> FloatArray:
    """Return the price of the float kernel by the layer's share of the multiply-adds, shape (n, k).

    An infinite price forbids float. Layers that are faster in float pay nothing.
    """
    work = np.array([float(timed_multiply_adds(layer)) for layer in layers])
    slow = np.array([form.activation_bits > FIXED_BITS for form in forms])
    pays = slow[None, :] & ~np.array([layer.float_input for layer in layers])[:, None]
    share = (work / work.sum())[:, None]
    prices: FloatArray = np.where(pays, price * share, 0.0)
    return prices


def summed_cost(sensitivities: Sensitivities, forms: Mapping[str, LayerForm], options: AllocationOptions) -> float:
    """Return the cost of all layers in the budget in the given forms."""
    layers = budgeted_layers(sensitivities)
    own = [forms[layer.name] for layer in layers]
    # A mix costs what its parts cost, each as a form of the whole layer, by the shares of their channels.
    whole = [
        [form] if form.rows is None else [replace(form, weight_bits=bits, rows=None) for bits, _ in form.rows]
        for form in own
    ]
    kinds = tuple(dict.fromkeys(form for forms in whole for form in forms))
    costs = form_costs(sensitivities, layers, kinds, options)
    total = 0.0
    for i, (layer, form, parts) in enumerate(zip(layers, own, whole, strict=True)):
        groups = None if form.rows is None else groups_of(layer)
        shares = [1.0] if groups is None else groups.shares_of([count for _, count in form.rows or ()]).tolist()
        total += sum(share * float(costs[i, kinds.index(part)]) for share, part in zip(shares, parts, strict=True))
    return total


def _ceiling(sensitivities: Sensitivities, agreement: float, metric: str) -> float:
    if metric not in MEASURED_METRICS:
        raise UsageError(
            f"--min-agreement needs costs in nats, and the metric {metric} has none", hint="use --metric kl"
        )
    return sensitivities.cost_at(agreement)


def _require_agreement(sensitivities: Sensitivities, asked: float, ceiling: float, least: float) -> None:
    """Refuse an agreement that no plan is predicted to keep.

    Args:
        sensitivities: hold the simulated plans.
        asked: the requested agreement, 0..1.
        ceiling: nats that all layers together may cost.
        least: nats that they cost at least; float on a slow kernel includes its price.
    """
    if least <= ceiling:
        return
    best = sensitivities.agreement_at(least)
    raise LampqError(
        f"no plan is predicted to reach an agreement of {asked:.9g}"
        + ("" if best is None else f"; the highest predicted agreement is {math.floor(1000 * best) / 1000:.3f}"),
        hint="ask for less, add larger candidates, or simulate more accurate plans with --effort best",
    )


def _best_agreement(sensitivities: Sensitivities, limits: Limits, costs: FloatArray) -> float | None:
    """Return the agreement predicted if only the one cheapest form is quantized; None: agreement is not limited."""
    if limits.min_agreement is None:
        return None
    least = costs[costs > 0].min(initial=np.inf)
    return sensitivities.agreement_at(float(least)) if np.isfinite(least) else None


def _cost_budget(costs: FloatArray, ceiling: float) -> Budget:
    """Make a budget of costs rounded up, so that a choice within the budget is within the ceiling."""
    scale = _COST_LEVELS / ceiling
    # A cost above the ceiling does not fit, however far above it is.
    weights = np.ceil(np.minimum(costs, 2 * ceiling) * scale).astype(np.int64)
    return Budget("nats of predicted KL", weights, _COST_LEVELS, max(1, round(scale)))


def _useful(costs: FloatArray, budgets: Sequence[Budget]) -> list[int]:
    """List the forms that no other form beats, or equals and precedes, for all layers and in every respect."""
    rows = np.stack([costs, *(budget.weights.astype(np.float64) for budget in budgets)])
    kept: list[int] = []
    for k in range(rows.shape[2]):
        others = [j for j in range(rows.shape[2]) if j != k]
        beaten = any(
            (rows[:, :, j] <= rows[:, :, k]).all() and (j < k or (rows[:, :, j] < rows[:, :, k]).any()) for j in others
        )
        if not beaten:
            kept.append(k)
    return kept


def _usage(problem: ChoiceProblem, choice: IntArray) -> tuple[Usage, ...]:
    """Say what is used of each budget; a budget binds if no layer can go to its next cheaper form within it."""
    layers = np.arange(len(choice))
    cheaper = problem.costs < problem.costs[layers, choice][:, None]
    found = []
    for budget, used in zip(problem.budgets, problem.used(choice).tolist(), strict=True):
        extra = budget.weights - budget.weights[layers, choice][:, None]
        steps = extra[cheaper]
        found.append(
            Usage(
                budget.name,
                (used + budget.offset) / budget.total,
                (budget.capacity + budget.offset) / budget.total,
                bool(steps.size and (steps > budget.capacity - used).any()),
            )
        )
    return tuple(found)


def fixed_forms(sensitivities: Sensitivities, fixed_bits: int, storage: Packing) -> dict[str, LayerForm]:
    """Return the forms of the layers outside the budget."""

    def form(layer: LayerSensitivity) -> LayerForm:
        if fixed_bits == FLOAT_BITS:
            return FLOAT_FORM
        return LayerForm(fixed_bits, fixed_activation_bits(layer, fixed_bits), storage)

    return {layer.name: form(layer) for layer in sensitivities.layers if layer.fixed}
