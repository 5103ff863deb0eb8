"""What a plan is expected to gain over uniform bits, from the measured costs of single layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lampq_onnx.allocation.ilp import solve
from lampq_onnx.allocation.metrics import METRICS, budgeted_layers
from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.allocation.problem import Problem
from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS

UNIFORM = "uniform"


def costs_against_uniform(
    sensitivities: Sensitivities, plan: BitPlan, options: AllocationOptions
) -> tuple[float, float] | None:
    """Sum the measured costs of the weights, for a plan and for uniform bits of the same average.

    Args:
        sensitivities: what was measured.
        plan: a plan for its layers.
        options: candidates of the plan.

    Returns:
        KL in nats of the plan and of uniform bits; None if costs were not measured, or there is no average.
    """
    layers, average = budgeted_layers(sensitivities), plan.weight_average()
    widths = tuple(bits for bits in options.candidates if bits <= FIXED_BITS)
    if average is None or not layers or not widths or average < min(widths):
        return None
    own = {layer.name: found.weight_bits for layer in layers if (found := plan.layers.get(layer.name)) is not None}
    problem = Problem(
        tuple(layer.name for layer in layers),
        np.array([layer.parameters for layer in layers], dtype=np.int64),
        widths,
        METRICS[UNIFORM](sensitivities, widths, options.gamma),
        average,
    )
    first = _cost(sensitivities, own)
    second = _cost(sensitivities, solve(problem, time_limit=options.time_limit).bits)
    return None if first is None or second is None else (first, second)


def _cost(sensitivities: Sensitivities, bits: Mapping[str, int]) -> float | None:
    """Summed costs of the layers at their widths; None if one was not measured."""
    total = 0.0
    for layer in budgeted_layers(sensitivities):
        cost = layer.weight_cost.get(bits.get(layer.name, 0))
        if cost is None:
            return None
        total += cost
    return total
