"""Cost of input widths, and which inputs lose too much at 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lampq_onnx.allocation.choices import FloatArray, IntArray
from lampq_onnx.allocation.forms import timed_multiply_adds
from lampq_onnx.allocation.metrics import at_width
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.targets import Target


def activation_costs(layers: Sequence[LayerSensitivity], widths: Sequence[int]) -> FloatArray:
    """Return the measured cost of each layer's input at each width, in nats, shape (n, k).

    Raises:
        LampqError: a cost was not measured.
    """
    return np.array([[_activation_cost(layer, bits) for bits in widths] for layer in layers], dtype=np.float64)


def input_elements(layers: Sequence[LayerSensitivity]) -> IntArray:
    """Return how many numbers each layer's input has, shape (n,).

    Raises:
        LampqError: the number is not known for a layer.
    """
    for layer in layers:
        if layer.activation_elements is None:
            raise LampqError(
                f"the sensitivities do not say how many numbers the input of layer {layer.name} has",
                hint="Measure the sensitivities again, or give all inputs one width, e.g. --activation-bits 8.",
            )
    return np.array([layer.activation_elements for layer in layers], dtype=np.int64)


def inputs_for(sensitivities: Sensitivities, target: Target) -> Sensitivities:
    """Return the sensitivities with the inputs in float that the target leaves in float: all, some or none."""
    if target.weights_only:
        layers = tuple(layer.model_copy(update={"float_input": True}) for layer in sensitivities.layers)
        return sensitivities.model_copy(update={"layers": layers})
    if target.kernel(FIXED_BITS, FLOAT_BITS) is not None:
        return sensitivities
    layers = tuple(layer.model_copy(update={"float_input": False}) for layer in sensitivities.layers)
    return sensitivities.model_copy(update={"layers": layers})


def fixed_activation_bits(layer: LayerSensitivity, fixed_bits: int) -> int:
    """Return the input width of a layer outside the budget whose weights have ``fixed_bits``."""
    return FLOAT_BITS if fixed_bits == FLOAT_BITS or layer.float_input else FIXED_BITS


def wide_layers(layers: Sequence[LayerSensitivity], activation_bits: int, price: float) -> frozenset[str]:
    """Return the names of the layers whose inputs get 16 instead of 8 bits, because that saves more than it costs.

    A layer pays ``price`` (see `AllocationOptions.wide_price`) times its share of the multiply-adds of ``layers``.

    Inputs are widened only from 8 bits, because a smaller width is a deliberate choice of narrow inputs. Layers whose
    costs at 8 and 16 bits were not measured keep their width. If the number of multiply-adds of any layer is unknown,
    all layers do.
    """
    if activation_bits != FIXED_BITS or any(layer.activation_elements is None for layer in layers):
        return frozenset()
    work = {layer.name: timed_multiply_adds(layer) for layer in layers}
    total = math.fsum(work.values())
    return frozenset(
        layer.name
        for layer in layers
        if FIXED_BITS in layer.activation_cost
        and WIDE_ACTIVATION_BITS in layer.activation_cost
        and layer.activation_cost[FIXED_BITS] - layer.activation_cost[WIDE_ACTIVATION_BITS]
        > price * work[layer.name] / total
    )


def _activation_cost(layer: LayerSensitivity, bits: int) -> float:
    hint = (
        "Measure the sensitivities at this width too, leave it out of the candidates, or give all inputs "
        "one width, e.g. --activation-bits 8."
    )
    return at_width(layer, layer.activation_cost, bits, "activation cost", hint)
