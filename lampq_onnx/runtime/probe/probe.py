"""Make a latency table from a float file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.artifacts.latency import LatencyTable, LayerTime, ProbedLayer
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.converter import convert_model
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.graph.quantized_operators import require_float_file
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.engine import Engine, engine_for
from lampq_onnx.runtime.environment import cpu_flags, cpu_name
from lampq_onnx.runtime.latency import compare_latency
from lampq_onnx.runtime.probe.layers import LayerShape, layer_bytes, layer_plan, plain_weight
from lampq_onnx.runtime.probe.measure import Timing, time_in_turns
from lampq_onnx.runtime.probe.timed_forms import TimedForm, timed_forms
from lampq_onnx.runtime.runtimes import described, runtime_of
from lampq_onnx.runtime.sessions import open_runner, open_session
from lampq_onnx.targets import Target

SAME = 3.0
"""Forms whose times differ by fewer standard errors than this count as equal: choosing between them would be choosing
noise."""

WHOLE_ROUNDS = 20
"""Rounds for timing the two whole files."""


@dataclass(frozen=True)
class ProbeOptions:
    """How times are measured.

    Attributes:
        threads: threads of the sessions.
        batch: images per run.
        rounds: turns of every form.
        reuse: whether times in the user's cache are used.
        engine: what runs the files; None: the runtime of the target.
    """

    threads: int = 1
    batch: int = 1
    rounds: int = 40
    reuse: bool = True
    engine: Engine | None = None


def probe(
    path: Path,
    target: Target,
    options: ProbeOptions,
    *,
    cache: ArrayCache | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> LatencyTable:
    """Time every distinct layer shape of a float file in every form of the target, and the whole file twice.

    Args:
        path: float.onnx.
        target: a runtime on this kind of CPU.
        options: how times are measured.
        cache: times by shape, onnxruntime version, CPU and options; default: the user's cache.
        progress: is told how many shapes are done.

    Raises:
        UsageError: the target cannot be timed here.
        LampqError: the file cannot be read, or has no layer.
    """
    forms = timed_forms(target)
    engine = options.engine or engine_for("auto", "auto", target.name)
    words = described(engine)  # refuses a runtime that is missing
    model = load_model(path)
    require_float_file(model, path)
    if not find_layers(model.graph):
        raise LampqError(f"{path} has no linear layer with constant weights: there is nothing to choose")
    # Some layers read fewer tokens once the converter's graph passes have run.
    model = _converted(model, target, FLOAT_FORM_BITS)
    opset = model.opset_imports.get("", 0)
    shapes = {layer.name: LayerShape.of(layer) for layer in find_layers(model.graph)}
    distinct = list(dict.fromkeys(shapes.values()))
    kept = ArrayCache.of_user() if cache is None else cache
    times: list[LayerTime] = []
    with progress.stage("layers", len(distinct)) as advance:
        for done, shape in enumerate(distinct, 1):
            times += _records(shape, forms, _times(shape, forms, opset, target, engine, options, kept))
            advance(done)
    with progress.stage("whole files"):
        float_ms, fastest_ms, noise = _whole(path, target, engine, options)
    slow = [_time(times, shape.name, FLOAT_FORM_BITS) for shape in shapes.values()]
    fast = [_time(times, shape.name, WHOLE_FORM) for shape in shapes.values()]
    return LatencyTable(
        model=path.name,
        target=target.name,
        cpu=cpu_name(),
        onnxruntime=ort.__version__,
        runtime=words,
        threads=options.threads,
        batch=options.batch,
        float_bytes=file_bytes(path),
        float_ms=float_ms,
        fastest_ms=fastest_ms,
        noise=noise,
        context=_context(float_ms, float_ms - fastest_ms, sum(slow), sum(slow) - sum(fast), noise * float_ms),
        layers=tuple(ProbedLayer(name=name, shape=shape.name) for name, shape in shapes.items()),
        times=tuple(times),
    )


def _context(whole: float, whole_saved: float, alone: float, alone_saved: float, noise: float) -> float:
    """Return the time saved in the graph over the time saved by layers alone; 1 if one of the two is noise.

    The result is limited, because layers cannot take longer in the graph than the graph does. In a tiny model, most of
    a layer's measured time is the call of the session; the ratio would then give latencies below zero.

    Args:
        whole: time of the float file.
        whole_saved: time that the fastest forms save of it.
        alone: summed time of float layers in separate sessions.
        alone_saved: time that the fastest forms save of that.
        noise: noise of ``whole_saved``.
    """
    ratio = whole_saved / alone_saved if whole_saved > noise and alone_saved > 0 else 1.0
    return min(ratio, whole / alone)


def _time(times: list[LayerTime], shape: str, form: tuple[int, int]) -> float:
    """Return the time of a shape in a form, in ms."""
    return next(time.milliseconds for time in times if time.shape == shape and time.covers(*form, None))


FLOAT_FORM_BITS = (FLOAT_BITS, FLOAT_BITS)
WHOLE_FORM = (4, 8)
"""Widths of the second whole file: the fastest form if integer kernels are faster than float."""


def _times(
    shape: LayerShape,
    forms: tuple[TimedForm, ...],
    opset: int,
    target: Target,
    engine: Engine,
    options: ProbeOptions,
    cache: ArrayCache,
) -> list[Timing]:
    key = _key(shape, forms, target, engine, options)
    found = cache.get(key) if options.reuse else None
    if found is not None:
        return [Timing(*(float(v) for v in found[form.name])) for form in forms]
    x = np.random.default_rng(1).normal(size=(options.batch, *shape.input)).astype(np.float32)
    models = [layer_bytes(shape, opset, target, form.measured) for form in forms]
    sessions = [open_session(model, threads=options.threads, engine=engine) for model in models]
    timings = time_in_turns(sessions, x, options.rounds)
    cache.put(key, {form.name: np.array([t.milliseconds, t.noise]) for form, t in zip(forms, timings, strict=True)})
    return timings


def _key(shape: LayerShape, forms: tuple[TimedForm, ...], target: Target, engine: Engine, options: ProbeOptions) -> str:
    parts = {
        "kind": "layer times 3",
        "shape": shape.name,
        "forms": [form.name for form in forms],
        "target": target.name,
        "cpu": [cpu_name(), *cpu_flags()],
        "runtime": [engine.runtime, runtime_of(engine.runtime).version(), engine.precision],
        "options": [options.threads, options.batch, options.rounds],
        "version": metadata.version("lampq-onnx"),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _records(shape: LayerShape, forms: tuple[TimedForm, ...], timings: list[Timing]) -> list[LayerTime]:
    """Make one record per form; storages with the same time share their mean."""
    pooled = list(timings)
    for group in {(form.weights, form.activations) for form in forms}:
        same = [i for i, form in enumerate(forms) if (form.weights, form.activations) == group]
        low = min(timings[i].milliseconds for i in same)
        high = max(timings[i].milliseconds for i in same)
        noise = max(timings[i].noise for i in same)
        if high - low <= SAME * noise * high:
            mean = float(np.mean([timings[i].milliseconds for i in same]))
            for i in same:
                pooled[i] = Timing(mean, noise)
    return [
        LayerTime(
            shape=shape.name,
            weight_bits=form.weights,
            activation_bits=form.activations,
            storages=form.storages,
            milliseconds=timing.milliseconds,
            noise=timing.noise,
        )
        for form, timing in zip(forms, pooled, strict=True)
    ]


def _converted(model: ir.Model, target: Target, form: tuple[int, int]) -> ir.Model:
    """Convert the graph with all layers in one form; ``model`` is changed."""
    layers = find_layers(model.graph)
    plan = BitPlan(layers={layer.name: layer_plan(*form) for layer in layers})
    weights = {} if form == FLOAT_FORM_BITS else {layer.name: plain_weight(layer.matrix(), form[0]) for layer in layers}
    return convert_model(model, plan, target=target, weights=weights).model


def _whole(path: Path, target: Target, engine: Engine, options: ProbeOptions) -> tuple[float, float, float]:
    """Return the median times in ms of the files with no and with all layers quantized, and the noise of their ratio.

    Both files are converted, because the converter's graph passes also speed up the other nodes.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-onnx-") as folder:
        files = [Path(folder, "float.onnx"), Path(folder, "quantized.onnx")]
        for file, form in zip(files, (FLOAT_FORM_BITS, WHOLE_FORM), strict=True):
            save_model(_converted(load_model(path), target, form), file)
        reference, other = (open_runner(file, threads=options.threads, engine=engine) for file in files)
    sizes = reference.session.get_inputs()[0].shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        raise LampqError(f"{path} takes images of any size {sizes}, but a latency can be measured for one size only")
    images = np.random.default_rng(2).normal(size=(options.batch, *sizes)).astype(np.float32)
    found = compare_latency(reference, other, images, threads=options.threads, runs=WHOLE_ROUNDS)
    low, high = found.speedup_quartiles
    return found.float_ms, found.quantized_ms, (high - low) / 2 / found.speedup
