"""The converter's entry point: float graph and numbers in, QDQ graph out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.converter.completeness import require_complete
from lampq_onnx.converter.embedded import embed_plan
from lampq_onnx.converter.order import closing_steps, conversion_steps
from lampq_onnx.converter.packing.storage import Stored
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.keys import FLOAT32_KEY, TARGET_KEY
from lampq_onnx.graph.layers import GraphLayer, annotate, find_layers
from lampq_onnx.graph.overflows import read_overflows
from lampq_onnx.graph.parameters import LayerParameters, Parameters
from lampq_onnx.graph.refusals import Refusal, grouped
from lampq_onnx.graph.steps import run_steps
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight, fit_weight_grid
from lampq_onnx.targets import Packing, Target

ZERO = 1e-30
"""Norm below which a weight counts as all zero; a 1-bit grid writes such weights as the smallest floats."""


@dataclass(frozen=True)
class Conversion:
    """A quantized graph, and what was done to get it.

    Attributes:
        model: the QDQ graph.
        passes: pass -> number of changes.
        stored: layer -> storage of its weight.
        parameters: layer -> the numbers that were written.
        nearest: layers whose weights were rounded to nearest by the converter.
        refusals: what the passes left unchanged, and why, in the order of the passes and of the graph.
    """

    model: ir.Model
    passes: Mapping[str, int]
    stored: Mapping[str, Stored]
    parameters: Parameters
    nearest: tuple[str, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def not_done(self) -> tuple[NotDone, ...]:
        """The refusals; those of one pass with the same reason are joined."""
        return grouped(self.refusals)


def planned_layers(model: ir.Model, plan: BitPlan) -> dict[str, GraphLayer]:
    """Return the layers of ``model`` that ``plan`` quantizes.

    Raises:
        LampqError: the plan names layers that the model does not have, gives another number of weights, or quantizes a
            layer that is not float32.
    """
    layers = {graph_layer.name: graph_layer for graph_layer in find_layers(model.graph)}
    missing = [name for name in plan.layers if name not in layers]
    if missing:
        raise LampqError(
            f"the plan names {len(missing)} layer(s) that the model does not have: {', '.join(missing[:5])}",
            hint="layers of the model: " + ", ".join(list(layers)[:8]) + (", ..." if len(layers) > 8 else ""),
        )
    for name, layer in plan.layers.items():
        weight = layers[name].weight.const_value
        if layer.parameters is not None and weight is not None and weight.size != layer.parameters:
            raise LampqError(
                f"layer {name} has {weight.size} weights in the model and {layer.parameters} in the plan: "
                "the plan was made for another model"
            )
        if layer.quantized and weight is not None and weight.dtype != ir.DataType.FLOAT:
            raise LampqError(
                f"layer {name} has weights of type {weight.dtype.name}, and only FLOAT can be quantized",
                hint="export the model in float32",
            )
    return {name: layers[name] for name, layer in plan.layers.items() if layer.quantized}


def layer_parameters(
    layers: Mapping[str, GraphLayer],
    plan: BitPlan,
    weights: Mapping[str, QuantizedWeight] | None = None,
    *,
    target: Target,
) -> dict[str, LayerParameters]:
    """Compute the quantization parameters of every planned layer.

    Args:
        layers: the layers.
        plan: widths and ranges.
        weights: weights that were rounded before. A layer without rounded weights of its planned width is rounded to
            nearest.
        target: decides the grids, and which ranges there must be.

    Raises:
        LampqError: a layer lacks a range that the target needs, a layer's weights are not finite, or the rounded
            weights belong to another layer.
    """
    return {
        name: _parameters(layer, plan.layers[name], (weights or {}).get(name), target) for name, layer in layers.items()
    }


def _parameters(
    graph_layer: GraphLayer, layer: LayerPlan, rounded: QuantizedWeight | None, target: Target
) -> LayerParameters:
    matrix, product = graph_layer.matrix(), None
    activation = _quantizer(graph_layer.name, layer, layer.activation_range, "activation_range", target)
    if target.output_ranges:
        product = _quantizer(graph_layer.name, layer, layer.output_range, "output_range", target)
    try:
        bits = layer.row_bits(len(matrix))
    except ValueError as error:
        raise LampqError(
            f"layer {graph_layer.name} has {len(matrix)} output channels in the model: {error}",
            hint="use the plan that was made for this model, or remove channel_widths of this layer from it",
        ) from error
    same_type = rounded is not None and (rounded.grid == "e4m3") == target.float8
    if rounded is not None and same_type and np.array_equal(rounded.row_bits(), bits) and rounded.block == target.block:
        _require_same_layer(graph_layer.name, matrix, rounded)
        return LayerParameters(weight=rounded, activation=activation, product=product)
    try:
        grid = fit_weight_grid(matrix, bits, target.grids, target.block)
    except ValueError as error:
        raise LampqError(f"layer {graph_layer.name} cannot be quantized: {error}") from error
    return LayerParameters(weight=grid.quantize(matrix), activation=activation, product=product)


def _quantizer(
    name: str, layer: LayerPlan, interval: ActivationRange | None, field: str, target: Target
) -> ActivationQuantizer | None:
    if not layer.input_quantized:
        return None
    if interval is None:
        raise LampqError(
            f"the plan has no {field} for layer {name}, which {target.name} needs",
            hint="give --calibration SRC, so that convert can measure it",
        )
    if target.float8:
        return ActivationQuantizer.of_float8(interval.low, interval.high)
    make = ActivationQuantizer.symmetric if target.symmetric else ActivationQuantizer.from_range
    return make(interval.low, interval.high, layer.activation_bits)


def _require_same_layer(name: str, matrix: npt.NDArray[np.float32], rounded: QuantizedWeight) -> None:
    """Require that the rounded weights are closer to the layer's weights than zeros are.

    Rounded weights of another layer or model are as far away as zeros, or farther.
    """
    same = rounded.codes.shape == matrix.shape
    same &= rounded.bias is None or rounded.bias.shape == matrix.shape[:1]
    if not same or np.linalg.norm(rounded.dequantize() - matrix) > np.linalg.norm(matrix) + ZERO:
        raise LampqError(
            f"the rounded weights of layer {name} do not belong to this layer of the model",
            hint="use the weights file that was written with this float.onnx",
        )


def convert_model(
    model: ir.Model,
    plan: BitPlan,
    *,
    packing: Packing | None = None,
    target: Target,
    weights: Mapping[str, QuantizedWeight] | None = None,
    graph_passes: Sequence[CountingPass] | None = None,
    batch: int | None = None,
    one_attention: bool = False,
) -> Conversion:
    """Quantize a float graph.

    Args:
        model: the float graph; it is changed in place.
        plan: widths by layer name.
        packing: storage of the weights; None: the target's. A storage that the plan gives for a layer overrides it.
        target: decides storage and the form of 8-bit weights.
        weights: weights that were rounded before, see `layer_parameters`.
        graph_passes: passes that run on the float graph first; None: `order.graph_steps`.
        batch: number of images that the file takes at once; None: the target's, or any.
        one_attention: use the operator Attention of opset 23 where it computes the same.

    Raises:
        UsageError: the target has no kernel for widths of the plan, does not read the storage, or cannot have channels
            of different widths in it.
        LampqError: the plan does not fit the graph.
    """
    require_runnable(plan, target)
    storage = packing or target.packing
    storages = {name: layer.storage for name, layer in plan.layers.items() if layer.storage is not None}
    for form in {storage, *storages.values()}:
        target.require_packing(form)
    for name, layer in plan.layers.items():
        if layer.channel_widths is not None and len(layer.channel_widths.counts) > 1:
            target.require_channel_widths(layer.storage or storage, f"layer {name}")
    wide = _float32_values(model, target)
    # Files of old exporters list their weights as inputs, which would keep unused weights alive.
    common_passes.RemoveInitializersFromInputsPass()(model)
    layers = planned_layers(model, plan)
    parameters = layer_parameters(layers, plan, weights, target=target)
    nearest = tuple(n for n, p in parameters.items() if p.weight is not (weights or {}).get(n))
    for name, graph_layer in layers.items():
        annotate(graph_layer, name)
    steps, packer = conversion_steps(
        parameters, target, storage, storages, graph_passes, batch or target.batch, wide, one_attention=one_attention
    )
    done = run_steps(model, steps)
    before = len(model.graph.initializers)
    run_steps(model, closing_steps())
    require_complete(model, plan, layers)
    passes = {step.name: step.count for step in done}
    passes["RemovedInitializers"] = before - len(model.graph.initializers)
    model.metadata_props[TARGET_KEY] = target.name
    embed_plan(model, plan)
    return Conversion(
        model=model,
        passes=passes,
        stored=packer.stored,
        parameters=parameters,
        nearest=nearest,
        refusals=tuple(refusal for step in done for refusal in step.refusals),
    )


def _float32_values(model: ir.Model, target: Target) -> frozenset[str]:
    """Return the tensors that stay in float32 in a file that computes in float16."""
    found = read_overflows(model)
    model.metadata_props.pop(FLOAT32_KEY, None)
    if not target.half:
        return frozenset()
    if found is None:
        raise LampqError(
            f"{target.name} computes in float16, and the float file does not say what overflows there",
            hint="give --calibration SRC, so that convert can measure it",
        )
    return found.wide(wide_sums=target.wide_sums)


def require_runnable(plan: BitPlan, target: Target) -> None:
    """Refuse a plan with widths that the target cannot run.

    Raises:
        UsageError: names the layer and the nearest widths that the target can run.
    """
    for name, layer in plan.layers.items():
        if layer.quantized:
            target.require_pair(layer.weight_bits, layer.activation_bits, f"layer {name}")


def check_file(path: Path) -> None:
    """Run the full check of the onnx package on a file, shape inference included.

    Raises:
        LampqError: the check failed; the message gives the checker's reason.
    """
    try:
        # Only by path can files over 2 GB be checked.
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker and shape inference raise unrelated exception types
        raise LampqError(f"{path.name} fails onnx's check: {str(error).strip()[:500]}") from error
