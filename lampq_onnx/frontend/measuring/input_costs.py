"""What narrow inputs of each layer cost: estimated, measured by block, or measured one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.artifacts import ActivationRange
from lampq_onnx.artifacts.plan import FIXED_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.config.stages import InputCosts
from lampq_onnx.frontend.measuring.costs import BATCH, FLOOR, activation_costs, grouped_activation_costs
from lampq_onnx.frontend.shared.batching import SlicedImages
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import ProgressSink

IMAGES = 32
"""Images for the cost of input bit-widths, which only has to separate widths that differ by much."""


@dataclass(frozen=True)
class InputRanges:
    """Ranges of the inputs of all layers, and what they cost.

    Attributes:
        ranges: layer -> width -> range.
        costs: layer -> width -> nats, to second order, from the gradients that chose the ranges.
        widths: layer -> widths that are asked for.
        elements: layer -> number of elements in its input that count for the time of the file, for one image.
    """

    ranges: Mapping[str, Mapping[int, ActivationRange]]
    costs: Mapping[str, Mapping[int, float]]
    widths: Mapping[str, Sequence[int]]
    elements: Mapping[str, int]


def input_costs(
    module: torch.nn.Module,
    layers: Sequence[ModelLayer],
    chain: BlockChain,
    images: SlicedImages,
    inputs: InputRanges,
    how: InputCosts,
    *,
    wide_price: float,
    progress: ProgressSink,
    group: Group = ALONE,
) -> dict[str, dict[int, float]]:
    """Measure or estimate the costs of input widths, in nats; empty if nothing depends on them.

    Args:
        module: the float model.
        layers: its layers; those outside the budget cost nothing.
        chain: its transformer blocks.
        images: images that the ranges were not chosen on; at most `IMAGES` are used.
        inputs: the ranges.
        how: see `InputCosts`.
        wide_price: see `AllocationOptions.wide_price`.
        progress: told of the stage.
        group: processes that share the images.
    """
    budgeted = [layer for layer in layers if not layer.fixed]
    if how == "none":
        return {}
    if how == "estimated":
        return {
            layer.name: {
                **{b: max(cost, FLOOR) for b, cost in inputs.costs[layer.name].items() if b <= FIXED_BITS},
                WIDE_ACTIVATION_BITS: FLOOR,
            }
            for layer in budgeted
        }
    quantizers = {
        layer.name: {
            width: quantizer_of(inputs.ranges[layer.name][width], width)
            for width in inputs.widths[layer.name]
            if width <= FIXED_BITS
        }
        for layer in budgeted
    }
    steps = sum(map(len, quantizers.values()))
    if how == "grouped":
        steps = len({chain.index_of(layer) for layer in budgeted}) * max(map(len, quantizers.values()))
    few = images.slice(0, IMAGES)
    with progress.stage("input costs", steps) as advance, live_model(module, layers) as live:
        if how == "measured":
            costs = activation_costs(live, chain, few, quantizers, batch_size=BATCH, progress=advance, group=group)
        else:
            prices = _wide_prices(budgeted, inputs.elements, wide_price)
            costs = grouped_activation_costs(
                live, chain, few, quantizers, prices, batch_size=BATCH, progress=advance, group=group
            )
    # 16 bits are 256 times finer than 8 bits; their cost is too small to measure.
    return {name: {**own, WIDE_ACTIVATION_BITS: FLOOR} for name, own in costs.items()}


def quantizer_of(interval: ActivationRange, bits: int) -> ActivationQuantizer:
    """The quantizer for a range at a bit-width."""
    return ActivationQuantizer.from_range(interval.low, interval.high, bits)


def _wide_prices(layers: Sequence[ModelLayer], elements: Mapping[str, int], price: float) -> dict[str, float]:
    """Layer -> nats that a 16-bit input must save."""
    work = {layer.name: layer.parameters * elements[layer.name] / layer.matrix().shape[1] for layer in layers}
    return {name: price * value / sum(work.values()) for name, value in work.items()}
