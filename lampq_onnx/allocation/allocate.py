"""Compute a plan from measured sensitivities and a budget of average bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lampq_onnx.allocation.activations import activation_costs, fixed_activation_bits, input_elements, wide_layers
from lampq_onnx.allocation.choices import Budget, ChoiceProblem, FloatArray
from lampq_onnx.allocation.groups import ChannelGroups, RowCounts
from lampq_onnx.allocation.ilp import solve, solve_choices
from lampq_onnx.allocation.metrics import MEASURED_METRICS, METRICS, UNIFORM, budgeted_layers
from lampq_onnx.allocation.mix_search import MixSolution, solve_mixes
from lampq_onnx.allocation.mixed_widths import mixes_in_bits, own_groups, widths_of, with_mix
from lampq_onnx.allocation.options import DEFAULTS, AllocationOptions
from lampq_onnx.allocation.problem import WEIGHT_BUDGET, Problem, Solution, capacity_of
from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan, LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.plan import FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.activations import with_headroom
from lampq_onnx.targets import Packing

ACTIVATION_BUDGET = "average activation bits"
"""Name of the budget for input widths; each input is weighted by the number of its elements."""


def allocate(sensitivities: Sensitivities, options: AllocationOptions = DEFAULTS) -> tuple[BitPlan, Solution]:
    """Find the widths of least cost whose averages keep the budgets.

    Args:
        sensitivities: what the front end measured; inputs marked to stay in float do so (see ``inputs_for``).
        options: budgets, metric and widths.

    Returns:
        the plan in the order of ``sensitivities.layers``, and the quality of the solution for the layers in the budget.

    Raises:
        UsageError: candidates that inputs cannot have.
        LampqError: no layer in the budget, a budget below the smallest candidate, or a measurement is missing.
    """
    options = options.for_measured(sensitivities)
    options.require_widths()
    options.require_average_bits()
    options.require_average_input_bits()
    options.require_granularity()
    model_layers = _layers(sensitivities)
    asked = options.activation_bits
    width, input_width = options.only_width, options.only_input_width
    mixes: dict[str, RowCounts] = {}
    if width is not None and input_width is not None:
        solution = _only_solution(model_layers, width, input_width if isinstance(asked, str) else None)
        return _plan(sensitivities, options, model_layers, solution, mixes), solution
    groups = None if width is not None else own_groups(sensitivities, options)
    if asked == "mixed":
        solution, mixes = _solve_pairs(sensitivities, model_layers, options, groups)
    else:
        costs = METRICS[options.metric](sensitivities, options.candidates, options.gamma)
        if asked == "same" and options.metric in MEASURED_METRICS:
            costs = costs + _input_costs(model_layers, options.candidates)
        sizes = np.array([layer.parameters for layer in model_layers], dtype=np.int64)
        problem = Problem(tuple(layer.name for layer in model_layers), sizes, options.candidates, costs, options.bits)
        if groups is None:
            solution = solve(problem, time_limit=options.time_limit)
        else:
            none = np.zeros(len(model_layers))
            kinds = [mixes_in_bits(model_layers, groups, options.candidates, costs, none, (none,))]
            solved = solve_mixes(problem.choices, kinds, time_limit=options.time_limit)
            solution, mixes = widths_of(solved, model_layers, [(bits, 0) for bits in options.candidates], [0])
        if asked == "same":
            solution = replace(solution, activation_bits=dict(solution.bits))
    return _plan(sensitivities, options, model_layers, solution, mixes), solution


def _plan(
    sensitivities: Sensitivities,
    options: AllocationOptions,
    model_layers: tuple[LayerSensitivity, ...],
    solution: Solution,
    mixes: Mapping[str, RowCounts],
) -> BitPlan:
    """Return the plan with the widths of a solution."""
    asked = options.activation_bits
    if isinstance(asked, str):
        inputs = solution.activation_bits
    else:
        price = options.wide_price * sensitivities.answers
        wide = wide_layers([layer for layer in model_layers if not layer.float_input], asked, price)
        inputs = {layer.name: WIDE_ACTIVATION_BITS if layer.name in wide else asked for layer in model_layers}
    inputs = {**inputs, **{layer.name: FLOAT_BITS for layer in model_layers if layer.float_input}}
    fixed = options.fixed_bits
    layers = {
        layer.name: layer_plan(layer, fixed, fixed_activation_bits(layer, fixed))
        if layer.fixed
        else with_mix(layer, layer_plan(layer, solution.bits[layer.name], inputs[layer.name]), mixes.get(layer.name))
        for layer in sensitivities.layers
    }
    return BitPlan(
        model=sensitivities.model.name,
        metric=options.metric,
        budget=options.bits,
        activation_budget=options.activation_budget if asked == "mixed" else None,
        layers=layers,
    )


def _only_solution(layers: Sequence[LayerSensitivity], width: int, input_width: int | None) -> Solution:
    """Return the only plan that the budgets allow; its cost was not asked for."""
    return Solution(
        bits={layer.name: width for layer in layers},
        objective=0.0,
        bound=0.0,
        gap=0.0,
        proven_optimal=True,
        seconds=0.0,
        activation_bits={} if input_width is None else {layer.name: input_width for layer in layers},
        only=True,
    )


def _layers(sensitivities: Sensitivities) -> tuple[LayerSensitivity, ...]:
    """Return the layers in the budget: at least one, with unique names."""
    names = [layer.name for layer in sensitivities.layers]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise LampqError(f"two layers are named {repeated} in the sensitivities of {sensitivities.model.name}")
    layers = budgeted_layers(sensitivities)
    if not layers:
        raise LampqError(
            f"the sensitivities of {sensitivities.model.name} have no layer in the budget: "
            + ("all layers are fixed" if names else "there are no layers")
        )
    return layers


def _solve_pairs(
    sensitivities: Sensitivities,
    layers: tuple[LayerSensitivity, ...],
    options: AllocationOptions,
    groups: Sequence[ChannelGroups | None] | None,
) -> tuple[Solution, dict[str, RowCounts]]:
    """Choose the widths of weights and inputs together; each option is a pair of the two.

    A metric that is not in nats is scaled to the range of the inputs' costs. With separate budgets and additive costs,
    no factor between the two changes which widths are best, but the smaller cost could drown in the rounding of the
    larger.
    """
    if options.only_width is not None:
        options = options.with_values(candidates=(options.only_width,), metric=UNIFORM, bits=options.only_width)
    pairs = [(w, a) for w in options.candidates for a in options.activation_candidates]
    averages = (options.bits, options.activation_budget)
    weight_costs = METRICS[options.metric](sensitivities, options.candidates, options.gamma)
    input_costs = _input_costs(layers, options.activation_candidates)
    if options.metric not in MEASURED_METRICS:
        spreads = [float(np.ptp(costs, axis=1).max()) for costs in (weight_costs, input_costs)]
        if min(spreads) > 0:
            weight_costs = weight_costs * (spreads[1] / spreads[0])
    elements = input_elements(layers) * np.array([not layer.float_input for layer in layers])
    counts = (np.array([layer.parameters for layer in layers], dtype=np.int64), elements)
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
        names=tuple(layer.name for layer in layers),
        options=tuple(f"{w} weight and {a} activation bits" for w, a in pairs),
        costs=(weight_costs[:, :, None] + input_costs[:, None, :]).reshape(len(layers), len(pairs)),
        budgets=budgets,
    )
    widths = options.activation_candidates
    if groups is None:
        found = solve_choices(problem, time_limit=options.time_limit)
        solved = MixSolution(tuple(found.choice.tolist()), problem, found)
    else:
        none = np.zeros(len(layers))
        kinds = [
            mixes_in_bits(layers, groups, options.candidates, weight_costs, input_costs[:, k], (none, elements * bits))
            for k, bits in enumerate(widths)
        ]
        solved = solve_mixes(problem, kinds, time_limit=options.time_limit)
    return widths_of(solved, layers, pairs, widths)


def _input_costs(layers: Sequence[LayerSensitivity], widths: Sequence[int]) -> FloatArray:
    """Return the measured costs of quantized inputs in nats, shape (n, k); zero for inputs that stay in float."""
    costs = np.zeros((len(layers), len(widths)))
    rows = [i for i, layer in enumerate(layers) if not layer.float_input]
    if rows:
        costs[rows] = activation_costs([layers[i] for i in rows], widths)
    return costs


def layer_plan(
    layer: LayerSensitivity, weight_bits: int, activation_bits: int, storage: Packing | None = None
) -> LayerPlan:
    """Build the plan's entry of one layer; an input that stays in float has no range."""
    return LayerPlan(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        type=layer.type,
        parameters=layer.parameters,
        fixed=layer.fixed,
        activation_range=None
        if activation_bits == FLOAT_BITS
        else layer.activation_ranges.get(activation_bits, layer.activation_range),
        output_range=None if activation_bits == FLOAT_BITS else _output_range(layer, activation_bits),
        input_elements=layer.activation_elements,
        sketch=layer.sketch,
        storage=storage,
    )


def _output_range(layer: LayerSensitivity, bits: int) -> ActivationRange | None:
    """Return the range that a layer's product is quantized over at a width, if the target needs one."""
    measured = layer.output_range
    if measured is None:
        return None
    low, high = with_headroom(measured.low, measured.high, bits)
    return measured.model_copy(update={"low": low, "high": high})
