"""Measure missing input ranges of a plan on a float file with onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.artifacts import ActivationRange, BitPlan
from lampq_onnx.config.options import DEFAULT_CALIBRATION_SIZE, ImageOptions
from lampq_onnx.converter.convert import planned_layers
from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.environment import available_cores
from lampq_onnx.runtime.sessions import Runner, batches_for, open_runner

BATCH = 8


def with_measured_ranges(
    model: ir.Model,
    path: Path,
    plan: BitPlan,
    images: ImageOptions,
    *,
    threads: int | None,
    progress: ProgressSink = NO_PROGRESS,
) -> BitPlan:
    """Fill in min-max ranges for quantized inputs that have none in the plan.

    Args:
        model: the float graph; only read.
        path: its file.
        plan: the plan.
        images: calibration images, and overrides of the preprocessing that the file records.
        threads: threads of the session; None: all cores.
        progress: is told about stages.

    Raises:
        LampqError: no calibration images are given, or the file does not say its preprocessing.
    """
    missing = [name for name, layer in plan.layers.items() if layer.input_quantized and layer.activation_range is None]
    if not missing:
        return plan
    if images.calibration is None:
        raise LampqError(
            f"the plan has no activation_range for {len(missing)} layer(s): {', '.join(missing[:3])}",
            hint="give --calibration SRC, so that the ranges can be measured",
        )
    if isinstance(images.calibration, str):
        raise UsageError(
            f"--calibration {images.calibration} needs the model in PyTorch, but convert has only its file",
            hint="give real images, or a plan that quantize made, which holds its ranges",
        )
    facts = read_metadata(model, path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    source = open_source(images.calibration, num_classes=facts.num_classes, need_labels=False)
    chosen = choose(source, images.calibration_size or DEFAULT_CALIBRATION_SIZE, images.seed)
    graph_layers = planned_layers(model, plan)
    inputs = {name: graph_layers[name].input.name or "" for name in missing}
    lows = dict.fromkeys(missing, np.inf)
    highs = dict.fromkeys(missing, -np.inf)
    with (
        tempfile.TemporaryDirectory(prefix="lampq-") as room,
        progress.stage("ranges", len(chosen)) as advance,
    ):
        probe = load_model(path)
        values = {value.name: value for node in probe.graph for value in node.outputs}
        feed = probe.graph.inputs[0].name
        present = {value.name for value in probe.graph.outputs}
        wanted = [name for name in dict.fromkeys(inputs.values()) if name != feed]
        probe.graph.outputs.extend(values[name] for name in wanted if name not in present)
        save_model(probe, Path(room) / "probe.onnx")
        runner = open_runner(Path(room) / "probe.onnx", threads=threads or available_cores())
        for batch in iter_batches(chosen, preprocessing, BATCH):
            found = _values(runner, wanted, batch.images, path)
            found[feed or ""] = batch.images
            for name in missing:
                array = found[inputs[name]]
                if not np.isfinite(array).all():
                    raise LampqError(f"layer {name} reads NaN or infinity on the calibration images")
                lows[name] = min(lows[name], float(array.min()))
                highs[name] = max(highs[name], float(array.max()))
            advance(batch.start + len(batch.images))
    layers = dict(plan.layers)
    for name in missing:
        measured = ActivationRange(low=lows[name], high=highs[name], method="minmax")
        layers[name] = layers[name].model_copy(update={"activation_range": measured})
    return plan.model_copy(update={"layers": layers})


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
