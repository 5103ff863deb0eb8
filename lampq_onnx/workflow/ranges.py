"""Measure missing ranges of a plan on a float file with onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.artifacts import ActivationRange, BitPlan
from lampq_onnx.config.inputs import DEFAULT_CALIBRATION_SIZE, ImageOptions
from lampq_onnx.converter.convert import planned_layers
from lampq_onnx.data import iter_batches
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.layers import GraphLayer
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.quantization import MIN_MAX
from lampq_onnx.quantization.activations import with_headroom
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.environment import available_cores
from lampq_onnx.runtime.sessions import Runner, batches_for, open_runner
from lampq_onnx.targets import Target
from lampq_onnx.workflow.calibration_images import calibration_images

BATCH = 8


def with_measured_ranges(
    model: ir.Model,
    path: Path,
    plan: BitPlan,
    images: ImageOptions,
    target: Target,
    *,
    threads: int | None,
    progress: ProgressSink = NO_PROGRESS,
) -> BitPlan:
    """Fill in min-max ranges for quantized inputs, and for products if the target needs them, that the plan lacks.

    Args:
        model: the float graph; only read.
        path: its file.
        plan: the plan.
        images: calibration images, and overrides of the preprocessing that the file records.
        target: where the file will run.
        threads: threads of the session; None: all cores.
        progress: is told about stages.

    Raises:
        LampqError: no calibration images are given, or the file does not say its preprocessing.
    """
    inputs, products = _missing(plan, target)
    if not inputs and not products:
        return plan
    graph_layers = planned_layers(model, plan)  # first, because a misspelt layer has no range either
    field, names = ("activation_range", inputs) if inputs else ("output_range", products)
    chosen, preprocessing = calibration_images(
        model,
        path,
        images,
        images.calibration_size or DEFAULT_CALIBRATION_SIZE,
        missing=LampqError(
            f"the plan has no {field} for {len(names)} layer(s): {', '.join(names[:3])}",
            hint="give --calibration SRC, so that the ranges can be measured",
        ),
    )
    # Field of the plan and layer -> the tensor that is measured, and what is subtracted from it.
    tensors: dict[tuple[str, str], tuple[str, npt.NDArray[np.float32] | None]] = {
        ("activation_range", name): (graph_layers[name].input.name or "", None) for name in inputs
    }
    tensors |= {("output_range", name): _product(graph_layers[name]) for name in products}
    lows, highs = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    with (
        tempfile.TemporaryDirectory(prefix="lampq-") as room,
        progress.stage("ranges", len(chosen)) as advance,
    ):
        probe = load_model(path)
        values = {value.name: value for node in probe.graph for value in node.outputs}
        feed = probe.graph.inputs[0].name
        present = {value.name for value in probe.graph.outputs}
        read = list(dict.fromkeys(tensor for tensor, _ in tensors.values()))
        constants = {name: value for name, value in probe.graph.initializers.items() if name in read}
        fixed = {name: constant_array(value).astype(np.float32) for name, value in constants.items()}
        wanted = [name for name in read if name != feed and name not in fixed]
        probe.graph.outputs.extend(values[name] for name in wanted if name not in present)
        save_model(probe, Path(room) / "probe.onnx")
        runner = open_runner(Path(room) / "probe.onnx", threads=threads or available_cores())
        for batch in iter_batches(chosen, preprocessing, BATCH):
            found = _values(runner, wanted, batch.images, path) | fixed
            found[feed or ""] = batch.images
            for key, (tensor, bias) in tensors.items():
                _, name = key
                array = found[tensor] if bias is None else found[tensor] - bias
                if not np.isfinite(array).all():
                    raise LampqError(f"layer {name} reads or computes NaN or infinity on the calibration images")
                lows[key] = min(lows[key], float(array.min()))
                highs[key] = max(highs[key], float(array.max()))
            advance(batch.start + len(batch.images))
    layers = dict(plan.layers)
    for key in tensors:
        field, name = key
        low, high = with_headroom(lows[key], highs[key], layers[name].activation_bits)
        measured = ActivationRange(low=low, high=high, method=MIN_MAX)
        layers[name] = layers[name].model_copy(update={field: measured})
    return plan.model_copy(update={"layers": layers})


def _missing(plan: BitPlan, target: Target) -> tuple[list[str], list[str]]:
    """List the layers whose input range is missing, and those whose output range is."""
    quantized = {name: layer for name, layer in plan.layers.items() if layer.input_quantized}
    inputs = [name for name, layer in quantized.items() if layer.activation_range is None]
    products = [name for name, layer in quantized.items() if target.output_ranges and layer.output_range is None]
    return inputs, products


def _product(layer: GraphLayer) -> tuple[str, npt.NDArray[np.float32] | None]:
    """Return the tensor that a layer's node writes, and the bias that is already in it."""
    node = layer.node
    bias = bias_of(node) if node.op_type in ("Gemm", "Conv") else None
    name = node.outputs[0].name or ""
    if bias is None:
        return name, None
    row = bias.vector(len(layer.matrix()))
    return name, row.reshape(-1, 1, 1) if node.op_type == "Conv" else row


def _values(
    runner: Runner, wanted: list[str], images: npt.NDArray[np.float32], path: Path
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the values of inner tensors on images (n, c, h, w)."""
    if not wanted:
        return {}
    batches = batches_for(runner.session, images, str(path))
    try:
        parts = [runner.session.run(wanted, {runner.input: batch}) for batch in batches]
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise LampqError(f"onnxruntime cannot run {path} on images {list(images.shape)}: {str(error)[:500]}") from error
    joined = parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return dict(zip(wanted, joined, strict=True))
