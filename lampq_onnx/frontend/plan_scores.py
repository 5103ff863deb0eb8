"""What a plan costs on images: the evaluator of the iterative update, for one plan's inputs and fixed layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.config.options import UpdateOptions
from lampq_onnx.frontend.measuring.evaluator import SimulationEvaluator
from lampq_onnx.frontend.measuring.input_costs import quantizer_of
from lampq_onnx.frontend.measuring.samples import labels_of
from lampq_onnx.frontend.rounding.plan import plan_inputs
from lampq_onnx.frontend.shared.batching import SlicedImages
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.row_widths import Bits
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer

SCORE_IMAGES = 128
"""Images for the score of the iterative update, and for the spread of real outputs."""

RECONSTRUCTION_IMAGES = 32
"""Images for reconstruction errors; enough for averages over 197 tokens per image."""


def plan_evaluator(
    module: torch.nn.Module,
    layers: Sequence[ModelLayer],
    rounder: WeightRounder,
    plan: BitPlan,
    images: SlicedImages,
    options: UpdateOptions,
    reference: torch.Tensor,
    coupled: Sensitivities | None = None,
) -> SimulationEvaluator:
    """Return the evaluator for assignments that differ from ``plan`` in the layers' bit-widths.

    Args:
        module: the float model.
        layers: its layers.
        rounder: rounded weights.
        plan: input ranges and the bit-widths of layers outside the budget.
        images: images for the score; at most `SCORE_IMAGES` are used.
        options: what the score measures.
        reference: outputs of the float model on the images of the score.
        coupled: sensitivities with a range for every bit-width, if inputs have the bit-width of the weights.
    """
    images = images.slice(0, SCORE_IMAGES)
    inputs = plan_inputs(plan)
    measured = coupled.layers if coupled is not None else ()
    ranges = {layer.name: layer.activation_ranges for layer in measured if layer.name in inputs}

    def input_of(name: str, width: Bits) -> ActivationQuantizer | None:
        if name in ranges and isinstance(width, int):
            return quantizer_of(ranges[name][width], width)
        return inputs.get(name)

    quantized = {name: layer for name, layer in plan.layers.items() if layer.quantized}
    return SimulationEvaluator(
        module,
        layers,
        input_of,
        rounder,
        images,
        images.slice(0, RECONSTRUCTION_IMAGES),
        reference,
        labels_of(images),
        fixed_bits={name: layer.weight_bits for name, layer in quantized.items() if layer.fixed},
        measure=options.measure,
        inputs=options.inputs,
    )
