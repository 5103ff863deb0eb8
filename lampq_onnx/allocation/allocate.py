"""Compute a plan from measured sensitivities and a budget of average bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lampq_onnx.allocation.activations import (
    DEFAULT_ACTIVATION_CANDIDATES,
    WIDE_PRICE,
    ActivationChoice,
    activation_costs,
    fixed_activation_bits,
    input_elements,
    wide_units,
)
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, FloatArray
from lampq_onnx.allocation.ilp import solve, solve_choices
from lampq_onnx.allocation.metrics import MEASURED_METRICS, METRICS, budgeted_units
from lampq_onnx.allocation.problem import (
    WEIGHT_BUDGET,
    Problem,
    Solution,
    capacity_of,
)
from lampq_onnx.allocation.request import (
    DEFAULT_ACTIVATION_BUDGET,
    DEFAULT_CANDIDATES,
    INPUT_WIDTHS,
    check_request,
)
from lampq_onnx.artifacts import BitPlan, LayerPlan, Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.plan import FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.targets import Packing

ACTIVATION_BUDGET = "average activation bits"
"""Name of the budget for input widths; each input is weighted by the number of its elements."""


def allocate(
    sensitivities: Sensitivities,
    *,
    bits: float,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    metric: str = "lampq",
    gamma: float = 4.0,
    activation_bits: ActivationChoice | None = None,
    activation_budget: float = DEFAULT_ACTIVATION_BUDGET,
    activation_candidates: Sequence[int] = DEFAULT_ACTIVATION_CANDIDATES,
    wide_price: float = WIDE_PRICE,
    time_limit: float = 10.0,
    fixed_bits: int = 8,
) -> tuple[BitPlan, Solution]:
    """Find the widths of least cost whose averages keep the budgets.

    Args:
        sensitivities: what the front end measured; inputs marked as float stay in float (see ``inputs_for``).
        bits: budget: average weight bits over the layers that are not fixed, 1..8.
        candidates: weight widths to choose from, in bits.
        metric: a key of ``METRICS``.
        gamma: factor by which each extra bit reduces the cost. The power of uniform quantization noise falls by 4 per
            bit. gamma sets the spread of the widths: relaxed to real numbers, B_i = const + log_gamma(Omega_i / c_i).
        activation_bits: width of the inputs of the layers in the budget; default: the width that the ranges were
            measured for. Layers outside the budget read 8 bits. "mixed" gives each input its own width in the same
            integer program, under ``activation_budget``; the cost of a layer is then the cost of its weights plus the
            measured cost of its input. "same" is the W/A of the LampQ paper: one width for the weights and the input of
            a layer, at the metric's cost; "kl" adds the measured cost of the input.
        activation_budget: for "mixed": average input bits, each input weighted by the number of its elements.
        activation_candidates: for "mixed": input widths to choose from, in bits.
        wide_price: an 8-bit input gets 16 bits if that saves more than this many nats times the layer's share of the
            multiply-adds (see ``WIDE_PRICE``); infinite: never. Used only if all inputs have 8 bits.
        time_limit: seconds for the integer program.
        fixed_bits: weight width of the layers outside the budget.

    Returns:
        tuple[BitPlan, Solution]: the plan in the order of ``sensitivities.units``, and the quality of the solution for
            the layers in the budget.

    Raises:
        UsageError: an option is out of range.
        LampqError: no layer is in the budget, the budget is below the smallest candidate, or a measurement is missing.
    """
    chosen = tuple(sorted(set(candidates)))
    check_request(
        bits=bits,
        metric=metric,
        gamma=gamma,
        fixed_bits=fixed_bits,
        candidates=chosen,
        activation_bits=activation_bits,
        activation_budget=activation_budget,
        activation_candidates=activation_candidates,
        wide_price=wide_price,
    )
    units = _units(sensitivities)
    if activation_bits == "mixed":
        widths = tuple(sorted(set(activation_candidates)))
        solution = _solve_pairs(
            sensitivities, units, (chosen, widths), (bits, activation_budget), metric, gamma, time_limit
        )
    else:
        costs = METRICS[metric](sensitivities, chosen, gamma)
        if activation_bits == "same" and metric in MEASURED_METRICS:
            costs = costs + _input_costs(units, chosen)
        sizes = np.array([unit.parameters for unit in units], dtype=np.int64)
        problem = Problem(tuple(unit.name for unit in units), sizes, chosen, costs, float(bits))
        solution = solve(problem, time_limit=time_limit)
        if activation_bits == "same":
            solution = replace(solution, activation_bits=dict(solution.bits))
    if isinstance(activation_bits, str):
        inputs = solution.activation_bits
    else:
        width = _activation_bits(sensitivities, activation_bits)
        wide = wide_units([unit for unit in units if not unit.float_input], width, wide_price)
        inputs = {unit.name: WIDE_ACTIVATION_BITS if unit.name in wide else width for unit in units}
    inputs = {**inputs, **{unit.name: FLOAT_BITS for unit in units if unit.float_input}}
    layers = {
        unit.name: layer_plan(unit, fixed_bits, fixed_activation_bits(unit, fixed_bits))
        if unit.fixed
        else layer_plan(unit, solution.bits[unit.name], inputs[unit.name])
        for unit in sensitivities.units
    }
    plan = BitPlan(
        model=sensitivities.model.name,
        metric=metric,
        budget=float(bits),
        activation_budget=float(activation_budget) if activation_bits == "mixed" else None,
        layers=layers,
    )
    return plan, solution


def _units(sensitivities: Sensitivities) -> tuple[UnitSensitivity, ...]:
    """Return the layers in the budget: at least one, with unique names."""
    names = [unit.name for unit in sensitivities.units]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise LampqError(f"two layers are named {repeated} in the sensitivities of {sensitivities.model.name}")
    units = budgeted_units(sensitivities)
    if not units:
        raise LampqError(
            f"the sensitivities of {sensitivities.model.name} have no layer in the budget: "
            + ("all layers are fixed" if names else "there are no layers")
        )
    return units


def _solve_pairs(
    sensitivities: Sensitivities,
    units: tuple[UnitSensitivity, ...],
    widths: tuple[tuple[int, ...], tuple[int, ...]],
    averages: tuple[float, float],
    metric: str,
    gamma: float,
    time_limit: float,
) -> Solution:
    """Choose the widths of weights and inputs together; each option is a pair of the two.

    A metric that is not in nats is scaled to the range of the inputs' costs. With separate budgets and additive costs,
    no factor between the two changes which widths are best, but the smaller cost could drown in the rounding of the
    larger.
    """
    pairs = [(w, a) for w in widths[0] for a in widths[1]]
    weight_costs = METRICS[metric](sensitivities, widths[0], gamma)
    input_costs = _input_costs(units, widths[1])
    if metric not in MEASURED_METRICS:
        spreads = [float(np.ptp(costs, axis=1).max()) for costs in (weight_costs, input_costs)]
        if min(spreads) > 0:
            weight_costs = weight_costs * (spreads[1] / spreads[0])
    elements = input_elements(units) * np.array([not unit.float_input for unit in units])
    counts = (np.array([unit.parameters for unit in units], dtype=np.int64), elements)
    budgets = tuple(
        Budget(
            name=name,
            weights=count[:, None] * np.array([pair[index] for pair in pairs], dtype=np.int64),
            capacity=capacity_of(average, int(count.sum())),
            total=max(1, int(count.sum())),
        )
        for index, (name, count, average) in enumerate(
            zip((WEIGHT_BUDGET, ACTIVATION_BUDGET), counts, averages, strict=True)
        )
    )
    problem = ChoiceProblem(
        names=tuple(unit.name for unit in units),
        options=tuple(f"{w} weight and {a} activation bits" for w, a in pairs),
        costs=(weight_costs[:, :, None] + input_costs[:, None, :]).reshape(len(units), len(pairs)),
        budgets=budgets,
    )
    found = solve_choices(problem, time_limit=time_limit)
    taken = {name: pairs[k] for name, k in zip(problem.names, found.choice.tolist(), strict=True)}
    return Solution(
        bits={name: pair[0] for name, pair in taken.items()},
        objective=found.objective,
        bound=found.bound,
        gap=found.gap,
        proven_optimal=found.proven_optimal,
        seconds=found.seconds,
        activation_bits={name: pair[1] for name, pair in taken.items()},
    )


def _input_costs(units: Sequence[UnitSensitivity], widths: Sequence[int]) -> FloatArray:
    """Return the measured costs of quantized inputs in nats, shape (n, k); zero for inputs that stay in float."""
    costs = np.zeros((len(units), len(widths)))
    rows = [i for i, unit in enumerate(units) if not unit.float_input]
    if rows:
        costs[rows] = activation_costs([units[i] for i in rows], widths)
    return costs


def layer_plan(
    unit: UnitSensitivity, weight_bits: int, activation_bits: int, storage: Packing | None = None
) -> LayerPlan:
    """Build the plan's entry of one layer; an input that stays in float has no range."""
    return LayerPlan(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        type=unit.type,
        parameters=unit.parameters,
        fixed=unit.fixed,
        activation_range=None
        if activation_bits == FLOAT_BITS
        else unit.activation_ranges.get(activation_bits, unit.activation_range),
        input_elements=unit.activation_elements,
        sketch=unit.sketch,
        storage=storage,
    )


def _activation_bits(sensitivities: Sensitivities, asked: int | None) -> int:
    bits = sensitivities.activation_bits if asked is None else asked
    if bits not in INPUT_WIDTHS:
        source = "the sensitivities say" if asked is None else "not"
        raise UsageError(f"activation_bits must be one of {', '.join(map(str, INPUT_WIDTHS))}; {source} {bits}")
    return bits
