"""Advice about the layers that cost the most accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lampq_onnx.artifacts import Report, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.artifacts.report import LayerReport

RAISED = 5
LOWERED = 3
"""Number of layers that are named."""

LEAST_COST = 1e-12
"""Cost in nats that stands for none."""


@dataclass(frozen=True)
class Step:
    """One proposed change of a plan."""

    layer: str
    now: str
    change: str
    effect: str


@dataclass(frozen=True)
class Advice:
    """Proposed changes, best first, and how to make them."""

    caption: str
    rows: tuple[Step, ...]
    how: str = ""


EDIT = """edit plan.json, then
lampq-onnx convert float.onnx --plan plan.json --weights weights.safetensors -o edited.onnx
lampq-onnx validate edited.onnx --reference float.onnx --validation IMAGES -o edited.json
convert rounds a layer with a changed width to nearest; `lampq-onnx quantize` with other --bits rounds
it together with all other layers."""


def advise(report: Report, sensitivities: Sensitivities | None) -> Advice:
    """Advise from the measured costs if there are any, else from the errors of the layers."""
    wide = [_wide(layer) for layer in report.layers if FIXED_BITS < layer.activation_bits < 32]
    if sensitivities is not None and sensitivities.cost_estimator != "none":
        rows = (*_by_cost(report, sensitivities), *wide)
        return Advice(
            "One bit more or less for single layers, with the KL to the float model that the analysis measured for the "
            "layer alone. Gains of several layers do not simply add up.",
            rows,
            EDIT,
        )
    rows = (*_by_error(report), *wide)
    if not rows:
        return Advice("Nothing was measured that singles out a layer.", ())
    return Advice(
        "The layers whose outputs are farthest from float. Costs by width are in the report that quantize writes.",
        rows,
        EDIT,
    )


def _by_cost(report: Report, sensitivities: Sensitivities) -> list[Step]:
    layers = {model_layer.name: model_layer for model_layer in sensitivities.layers}
    raised, lowered = [], []
    for layer in report.layers:
        model_layer = layers.get(layer.name)
        cost = {} if model_layer is None else model_layer.weight_cost
        now, above, below = layer.mean_weight_bits, _above(layer, cost), _below(layer, cost)
        if above is not None:
            raised.append((_cost_at(cost, now) - _cost_at(cost, above), above, layer))
        if below is not None:
            loss, saved = _cost_at(cost, below) - _cost_at(cost, now), layer.parameters * (now - below) / 8
            lowered.append((loss / saved, loss, below, layer))
    raised.sort(key=lambda item: -item[0])
    lowered.sort(key=lambda item: item[0])
    named = {layer.name for _, _, layer in raised[:RAISED]}
    steps = [
        Step(
            layer.name,
            _now(layer),
            f"{_text(bits)} bits",
            f"KL -{gain:.2g}, {_kilobytes(layer, bits)} kB",
        )
        for gain, bits, layer in raised[:RAISED]
        if gain > 0
    ]
    cheap = [item for item in lowered if item[3].name not in named][:LOWERED]
    steps += [
        Step(
            layer.name,
            _now(layer),
            f"{_text(bits)} bits (cheapest to save)",
            f"KL +{loss:.2g}, {_kilobytes(layer, bits)} kB",
        )
        for _, loss, bits, layer in cheap
    ]
    return steps


def _above(layer: LayerReport, cost: Mapping[int, float]) -> float | None:
    """Return the next larger width that was measured; one bit more for every channel if they differ."""
    now = layer.mean_weight_bits
    if layer.channel_bits is not None:
        fits = cost and min(cost) <= now and now + 1 <= max(cost) and max(layer.channel_bits) < FIXED_BITS
        return now + 1 if fits else None
    return min((bits for bits in cost if bits > now), default=None) if now in cost else None


def _below(layer: LayerReport, cost: Mapping[int, float]) -> float | None:
    """Return the next smaller width that was measured; one bit less for every channel if they differ."""
    now = layer.mean_weight_bits
    if layer.channel_bits is not None:
        fits = cost and min(cost) <= now - 1 and now <= max(cost) and min(layer.channel_bits) > 1
        return now - 1 if fits else None
    return max((bits for bits in cost if bits < now), default=None) if now in cost else None


def _cost_at(cost: Mapping[int, float], bits: float) -> float:
    """Return the cost of a layer at a width; between two measured widths it is interpolated by its logarithm."""
    if bits in cost:
        return cost[int(bits)]
    known = sorted(cost)
    logs = [math.log(max(cost[width], LEAST_COST)) for width in known]
    return math.exp(float(np.interp(bits, known, logs)))


def _by_error(report: Report) -> list[Step]:
    known = {
        output.name: output.sqnr_db
        for output in (report.details.errors.outputs if report.details and report.details.errors else ())
        if output.kind == "layer" and output.sqnr_db is not None
    }
    narrow = [layer for layer in report.layers if layer.name in known and layer.weight_bits < FIXED_BITS]
    worst = sorted(narrow, key=lambda layer: known[layer.name])[:RAISED]
    return [
        Step(
            layer.name,
            _now(layer),
            f"{_text(layer.mean_weight_bits + 1)} bits",
            f"its output is at {known[layer.name]:.1f} dB; {_kilobytes(layer, layer.mean_weight_bits + 1)} kB",
        )
        for layer in worst
    ]


def _wide(layer: LayerReport) -> Step:
    return Step(
        layer.name,
        f"inputs of {layer.activation_bits} bits",
        "8 bits for the inputs, if time counts more",
        "runs on the float kernel now, because 8-bit inputs lose too much",
    )


def _now(layer: LayerReport) -> str:
    return f"{layer.bits_text} bits"


def _text(bits: float) -> str:
    return str(int(bits)) if bits == int(bits) else f"{bits:.2f}"


def _kilobytes(layer: LayerReport, bits: float) -> str:
    return f"{layer.parameters * (bits - layer.mean_weight_bits) / 8e3:+.1f}"
