"""Cost of input widths, and which inputs lose too much at 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray
from lampq_onnx.allocation.metrics import at_width
from lampq_onnx.artifacts import Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.targets import Target


def activation_costs(units: Sequence[UnitSensitivity], widths: Sequence[int]) -> FloatArray:
    """Return the measured cost of each layer's input at each width, in nats, shape (n, k).

    Raises:
        LampqError: a cost was not measured.
    """
    return np.array([[_activation_cost(unit, bits) for bits in widths] for unit in units], dtype=np.float64)


def input_elements(units: Sequence[UnitSensitivity]) -> IntArray:
    """Return how many numbers each layer's input has, shape (n,).

    Raises:
        LampqError: the number is not known for a layer.
    """
    for unit in units:
        if unit.activation_elements is None:
            raise LampqError(
                f"the sensitivities do not say how many numbers the input of layer {unit.name} has",
                hint="Measure the sensitivities again, or give all inputs one width, e.g. --activation-bits 8.",
            )
    return np.array([unit.activation_elements for unit in units], dtype=np.int64)


def inputs_for(sensitivities: Sensitivities, target: Target) -> Sensitivities:
    """Return the sensitivities without inputs that stay in float, unless the target has a kernel for those."""
    if target.kernel(FIXED_BITS, FLOAT_BITS) is not None:
        return sensitivities
    units = tuple(unit.model_copy(update={"float_input": False}) for unit in sensitivities.units)
    return sensitivities.model_copy(update={"units": units})


def fixed_activation_bits(unit: UnitSensitivity, fixed_bits: int) -> int:
    """Return the input width of a layer outside the budget whose weights have ``fixed_bits``."""
    return FLOAT_BITS if fixed_bits == FLOAT_BITS or unit.float_input else FIXED_BITS


def wide_units(units: Sequence[UnitSensitivity], activation_bits: int, price: float) -> frozenset[str]:
    """Return the names of the layers whose inputs get 16 instead of 8 bits, because that saves more than it costs.

    A layer pays ``price`` (see `AllocationOptions.wide_price`) times its share of the multiply-adds of ``units``.

    Inputs are widened only from 8 bits, because a smaller width is a deliberate choice of narrow inputs. Layers whose
    costs at 8 and 16 bits were not measured keep their width. If the number of multiply-adds of any layer is unknown,
    all layers do.
    """
    if activation_bits != FIXED_BITS or any(unit.activation_elements is None for unit in units):
        return frozenset()
    work = {unit.name: _multiply_adds(unit) for unit in units}
    total = math.fsum(work.values())
    return frozenset(
        unit.name
        for unit in units
        if FIXED_BITS in unit.activation_cost
        and WIDE_ACTIVATION_BITS in unit.activation_cost
        and unit.activation_cost[FIXED_BITS] - unit.activation_cost[WIDE_ACTIVATION_BITS]
        > price * work[unit.name] / total
    )


def _multiply_adds(unit: UnitSensitivity) -> float:
    """Return the number of weights times the number of tokens."""
    return unit.parameters * (unit.activation_elements or 0) / unit.shape[1]


def _activation_cost(unit: UnitSensitivity, bits: int) -> float:
    hint = (
        "Measure the sensitivities at this width too, leave it out of the candidates, or give all inputs "
        "one width, e.g. --activation-bits 8."
    )
    return at_width(unit, unit.activation_cost, bits, "activation cost", hint)
