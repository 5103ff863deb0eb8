"""Expected costs of a plan and of uniform bits, against sums by hand."""

from __future__ import annotations

import pytest

from lampq_onnx.allocation import AllocationOptions, allocate, costs_against_uniform
from tests.html.reports import sensitivities


def test_costs_are_those_of_the_widths() -> None:
    # Six layers of one size; a bit lowers the cost of layer i by (i + 1) hundredths, less from 5 bits on.
    costs = [{b: 0.01 * (i + 1) * (9 - b) * (1 if b < 5 else 0.1) for b in range(2, 9)} for i in range(6)]
    known = sensitivities()
    layers = [layer.model_copy(update={"weight_cost": c}) for layer, c in zip(known.layers, costs, strict=True)]
    measured = known.model_copy(update={"layers": tuple(layers)})
    options = AllocationOptions(bits=4, candidates=tuple(range(2, 9)), metric="kl")
    plan, _ = allocate(measured, options)
    found = costs_against_uniform(measured, plan, options)
    assert found is not None
    cost, uniform = found
    bits = [plan.layers[layer.name].weight_bits for layer in measured.layers]
    assert cost == pytest.approx(sum(costs[i][b] for i, b in enumerate(bits)))
    assert uniform == pytest.approx(sum(costs[i][4] for i in range(6)))
    assert cost < uniform


def test_nothing_is_said_where_a_cost_is_missing() -> None:
    measured = sensitivities()
    first = measured.layers[0].model_copy(update={"weight_cost": {}})
    options = AllocationOptions(bits=4, candidates=tuple(range(2, 9)), metric="uniform")
    plan, _ = allocate(measured, options)
    without = measured.model_copy(update={"layers": (first, *measured.layers[1:])})
    assert costs_against_uniform(without, plan, options) is None
