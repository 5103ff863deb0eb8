"""Widths, inputs and storage of every unit in one integer program, under any mix of budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lampq_onnx.allocation.activations import activation_costs, fixed_activation_bits
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, FloatArray, IntArray
from lampq_onnx.allocation.forms import FLOAT_FORM, Form, bit_operations, form_bytes, multiply_adds, pair_table_bytes
from lampq_onnx.allocation.ilp import solve_choices
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.metrics import MEASURED_METRICS, METRICS, budgeted_units
from lampq_onnx.allocation.problem import WEIGHT_BUDGET, capacity_of
from lampq_onnx.artifacts import Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.targets import Packing, Target

_NANOSECONDS = 1e6
"""In a millisecond: latencies are whole numbers in the program."""

_SIZE_MARGIN = 0.005
"""Share of a size that is kept free: graphs differ by what a layer's nodes and names take."""

_MEGABYTE = 10**6
_GIGA = 10**9
_COST_LEVELS = 10**9
"""Costs as a budget are whole numbers up to this."""


@dataclass(frozen=True)
class Resource:
    """One thing that a file takes.

    Attributes:
        name: for messages, with its unit.
        amount: what a unit takes in a form, a whole number.
        rest: what the file takes beside the units in the budget.
        limit: what it may take, in the same numbers.
        scale: messages divide by it.
    """

    name: str
    amount: Callable[[UnitSensitivity, Form], int]
    rest: int
    limit: int
    scale: int

    def budget(self, units: Sequence[UnitSensitivity], forms: Sequence[Form]) -> Budget:
        """As a row of the program."""
        table = np.array([[self.amount(unit, form) for form in forms] for unit in units], dtype=np.int64)
        return Budget(self.name, table, self.limit - self.rest, self.scale, self.rest)


@dataclass(frozen=True)
class Usage:
    """What a solution takes of one budget, in the budget's unit, and whether one step more would break it."""

    name: str
    used: float
    limit: float
    binds: bool


@dataclass(frozen=True)
class FormSolution:
    """Forms of all units in the budget, and how good they are known to be; see `Solution`."""

    forms: dict[str, Form]
    objective: float
    bound: float
    gap: float
    proven_optimal: bool
    seconds: float
    usage: tuple[Usage, ...]


def solve_forms(
    sensitivities: Sensitivities,
    forms: Sequence[Form],
    limits: Limits,
    fixed: Mapping[str, Form],
    target: Target,
    *,
    metric: str,
    gamma: float,
    table: LatencyTable | None,
    float_bytes: int | None,
    float_price: float,
    time_limit: float,
) -> FormSolution:
    """The forms of least cost within all limits; with ``min_agreement``, those of least bytes.

    Where no latency is asked for, nothing else would keep units from the float kernel, on which they lose least and run
    slowest: they pay for it as `wide_units` do.

    Args:
        sensitivities: what the front end measured.
        forms: to choose from; float among them if a unit may stay in float.
        limits: at least one.
        fixed: forms of the units outside the budget.
        target: where the file is to run, which decides a part of its size.
        metric, gamma: what a width costs.
        table: of the float file; needed for ``max_ms``.
        float_bytes: size of the float file; needed for ``max_bytes`` where there is no table.
        float_price: nats that a whole model's worth of multiply-adds on the float kernel must save, without ``max_ms``.
        time_limit: seconds for the integer program.

    Raises:
        UsageError: what a limit needs is not given.
        LampqError: the limits cannot be kept, alone or together, or a measurement is missing.
    """
    units = budgeted_units(sensitivities)
    if table is not None:
        table.require_layers(unit.name for unit in sensitivities.units)
    resources = _resources(sensitivities, limits, fixed, target, table, float_bytes)
    costs = form_costs(sensitivities, units, forms, metric, gamma)
    if limits.max_ms is None:
        costs = costs + _float_prices(units, forms, float_price)
    budgets = [resource.budget(units, forms) for resource in resources]
    objective = costs
    if limits.min_agreement is not None:
        ceiling = _ceiling(sensitivities, limits.min_agreement, metric)
        budgets.append(_cost_budget(costs, ceiling))
        objective = np.array([[float(form_bytes(unit, form, target)) for form in forms] for unit in units])
    if not budgets:
        raise UsageError("no budget is given", hint="give at least one, e.g. --bits 4 or --max-size 4MB")
    for budget in budgets:
        _require_room(budget)
    kept = _useful(objective, budgets)
    problem = ChoiceProblem(
        names=tuple(unit.name for unit in units),
        options=tuple(str(forms[k]) for k in kept),
        costs=objective[:, kept],
        budgets=tuple(Budget(b.name, b.weights[:, kept], b.capacity, b.total, b.offset) for b in budgets),
    )
    found = solve_choices(problem, time_limit=time_limit)
    return FormSolution(
        forms={unit.name: forms[kept[k]] for unit, k in zip(units, found.choice.tolist(), strict=True)},
        objective=found.objective,
        bound=found.bound,
        gap=found.gap,
        proven_optimal=found.proven_optimal,
        seconds=found.seconds,
        usage=_usage(problem, found.choice),
    )


def form_costs(
    sensitivities: Sensitivities, units: Sequence[UnitSensitivity], forms: Sequence[Form], metric: str, gamma: float
) -> FloatArray:
    """(n, k) cost of every unit in every form: that of the weights and that of the input; float costs nothing.

    Raises:
        LampqError: a width that was not measured.
    """
    widths = tuple(sorted({form.weight_bits for form in forms if form.storage is not None}))
    if not widths:
        return np.zeros((len(units), len(forms)))
    inputs = tuple(sorted({form.activation_bits for form in forms if form.activation_bits != FLOAT_BITS}))
    weight_costs = METRICS[metric](sensitivities, widths, gamma)
    input_costs = activation_costs(units, inputs)
    if metric not in MEASURED_METRICS:
        spreads = [float(np.ptp(costs, axis=1).max()) for costs in (weight_costs, input_costs)]
        if min(spreads) > 0:
            weight_costs = weight_costs * (spreads[1] / spreads[0])
    costs = np.zeros((len(units), len(forms)))
    for k, form in enumerate(forms):
        if form.storage is not None:
            costs[:, k] += weight_costs[:, widths.index(form.weight_bits)]
        if form.activation_bits != FLOAT_BITS:
            costs[:, k] += input_costs[:, inputs.index(form.activation_bits)]
    return costs


def _float_prices(units: Sequence[UnitSensitivity], forms: Sequence[Form], price: float) -> FloatArray:
    """(n, k) price of the float kernel by the unit's share of the multiply-adds; an infinite price forbids it.

    Units that are faster on it pay nothing.
    """
    work = np.array([float(multiply_adds(unit)) for unit in units])
    slow = np.array([form.activation_bits > FIXED_BITS for form in forms])
    pays = slow[None, :] & ~np.array([unit.float_input for unit in units])[:, None]
    share = (work / work.sum())[:, None]
    prices: FloatArray = np.where(pays, price * share, 0.0)
    return prices


def summed_cost(sensitivities: Sensitivities, forms: Mapping[str, Form], metric: str, gamma: float) -> float:
    """Cost of all units in the budget in the forms given."""
    kinds = tuple(dict.fromkeys(forms[unit.name] for unit in budgeted_units(sensitivities)))
    units = budgeted_units(sensitivities)
    costs = form_costs(sensitivities, units, kinds, metric, gamma)
    return float(sum(costs[i, kinds.index(forms[unit.name])] for i, unit in enumerate(units)))


def _resources(
    sensitivities: Sensitivities,
    limits: Limits,
    fixed: Mapping[str, Form],
    target: Target,
    table: LatencyTable | None,
    float_bytes: int | None,
) -> list[Resource]:
    outside = [unit for unit in sensitivities.units if unit.fixed]
    total = sum(unit.parameters for unit in budgeted_units(sensitivities))
    found = []
    if limits.bits is not None:
        capacity = capacity_of(limits.bits, total)
        found.append(Resource(WEIGHT_BUDGET, lambda u, form: u.parameters * form.weight_bits, 0, capacity, total))
    if limits.max_bytes is not None:
        whole = table.float_bytes if table is not None else float_bytes or sensitivities.float_bytes
        if whole is None:
            raise UsageError(
                "--max-size needs the size of the float file, which these sensitivities do not hold",
                hint="measure them again, or give --latency latency.json or --float float.onnx",
            )
        rest = whole - sum(form_bytes(unit, FLOAT_FORM, target) for unit in sensitivities.units)
        rest += sum(form_bytes(unit, fixed[unit.name], target) for unit in outside)
        rest += int(limits.max_bytes * _SIZE_MARGIN) + pair_table_bytes(total)
        found.append(Resource("MB of file", partial(form_bytes, target=target), rest, limits.max_bytes, _MEGABYTE))
    if limits.max_ms is not None:
        if table is None:
            raise UsageError(
                "--max-latency needs measured times",
                hint="make them with lampq-onnx probe float.onnx -o latency.json, and give --latency latency.json",
            )
        found.append(_latency(sensitivities, table, limits.max_ms, outside, fixed))
    if limits.max_bops is not None:
        rest = sum(bit_operations(unit, fixed[unit.name]) for unit in outside)
        found.append(Resource("G bit operations", bit_operations, rest, int(limits.max_bops), _GIGA))
    return found


def _latency(
    sensitivities: Sensitivities,
    table: LatencyTable,
    limit: float,
    outside: Sequence[UnitSensitivity],
    fixed: Mapping[str, Form],
) -> Resource:
    times = table.layer_times()

    def amount(unit: UnitSensitivity, form: Form) -> int:
        return round(_NANOSECONDS * times.ms(unit.name, form.weight_bits, form.activation_bits, form.storage))

    known = {unit.name for unit in sensitivities.units}
    others = sum(times.ms(layer.name, FLOAT_BITS, FLOAT_BITS) for layer in table.layers if layer.name not in known)
    rest = round(_NANOSECONDS * (table.fixed_ms + others)) + sum(amount(unit, fixed[unit.name]) for unit in outside)
    return Resource("ms of latency", amount, rest, int(_NANOSECONDS * limit), int(_NANOSECONDS))


def _ceiling(sensitivities: Sensitivities, agreement: float, metric: str) -> float:
    if metric not in MEASURED_METRICS:
        raise UsageError(
            f"--min-agreement needs costs in nats, and the metric {metric} has none", hint="use --metric kl"
        )
    return sensitivities.cost_at(agreement)


def _cost_budget(costs: FloatArray, ceiling: float) -> Budget:
    """Costs rounded up, so that a choice within the budget is within the ceiling."""
    scale = _COST_LEVELS / ceiling
    # A cost above the ceiling does not fit however far above it is.
    weights = np.ceil(np.minimum(costs, 2 * ceiling) * scale).astype(np.int64)
    return Budget("nats of predicted KL", weights, _COST_LEVELS, max(1, round(scale)))


def _require_room(budget: Budget) -> None:
    if budget.capacity < 0:
        raise LampqError(
            f"a budget of {budget.say(budget.capacity)} {budget.name} cannot be met: what lies outside of the units "
            f"to choose for takes {budget.say(0)} alone",
            hint=f"give at least {budget.say(int(budget.weights.min(axis=1).sum()))}",
        )


def _useful(costs: FloatArray, budgets: Sequence[Budget]) -> list[int]:
    """Forms that no other beats, or equals and precedes, for all units and on all counts."""
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
    """A budget binds where no unit can go to its next cheaper form within it."""
    units = np.arange(len(choice))
    cheaper = problem.costs < problem.costs[units, choice][:, None]
    found = []
    for budget, used in zip(problem.budgets, problem.used(choice).tolist(), strict=True):
        extra = budget.weights - budget.weights[units, choice][:, None]
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


def fixed_forms(sensitivities: Sensitivities, fixed_bits: int, storage: Packing) -> dict[str, Form]:
    """Forms of the units outside the budget."""

    def form(unit: UnitSensitivity) -> Form:
        if fixed_bits == FLOAT_BITS:
            return FLOAT_FORM
        return Form(fixed_bits, fixed_activation_bits(unit, fixed_bits), storage)

    return {unit.name: form(unit) for unit in sensitivities.units if unit.fixed}
