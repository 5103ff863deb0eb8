"""`inspect`, `explain` and `probe`: what a file holds, which kernels it runs on, and what its layers cost in time."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.artifacts import LatencyTable
from lampq_onnx.config.doors import whole_number
from lampq_onnx.config.limits import MOST_BATCH, MOST_THREADS, MOST_TURNS
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.values import options_of
from lampq_onnx.converter.inspect import QuantizedLayer, inspect_model
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.engine import Precision, engine_for
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.runtime.explain import PROFILE_RUNS, Explanation, explain_file
from lampq_onnx.runtime.probe import ProbeOptions
from lampq_onnx.runtime.probe import probe as measure
from lampq_onnx.runtime.runtimes import require_runtime
from lampq_onnx.runtime.sessions import example_images

FEWEST_ROUNDS, ROUNDS = 5, 40
"""Turns of every form of a layer: a median of fewer says nothing, and the default."""


def inspect(model: str | Path) -> list[QuantizedLayer]:
    """List the quantized layers of a file in the order of the graph.

    Args:
        model: a quantized ONNX file, also a plain QDQ file of another tool.

    Returns:
        one entry for each layer.

    Raises:
        LampqError: it cannot be read.
    """
    return inspect_model(load_model(Path(model)))


def explain(
    model: str | Path,
    *,
    threads: int = 1,
    batch: int = 1,
    runs: int = PROFILE_RUNS,
    runtime: str = "auto",
    inference_precision: Precision = "auto",
) -> Explanation:
    """Profile a file on random images, and find its layers in the graph that a runtime makes of it.

    Args:
        model: an ONNX file with one image input, quantized or float.
        threads: of the session.
        batch: images at once.
        runs: profiled runs; times are medians.
        runtime: what runs the file: onnxruntime, openvino, or auto: the runtime of the target it was made for.
        inference_precision: arithmetic beside integer kernels; auto: the runtime's own default.

    Returns:
        the kernel of every layer, its time in microseconds, and why it is not an integer kernel.

    Raises:
        UsageError: a number out of range, or an unknown runtime.
        LampqError: the file cannot be read or run.
    """
    images = whole_number("batch", batch, least=1, most=MOST_BATCH)
    cores = whole_number("threads", threads, least=1, most=MOST_THREADS)
    turns = whole_number("runs", runs, least=1, most=MOST_TURNS)
    path = Path(model)
    target = load_model(path).metadata_props.get(TARGET_KEY, "")
    engine = engine_for(_known(runtime), inference_precision, target)
    require_runtime(engine)
    return explain_file(path, example_images(path, images), threads=cores, runs=turns, engine=engine)


def probe(
    float_model: str | Path,
    *,
    target: str = "auto",
    runtime: str = "auto",
    inference_precision: Precision = "auto",
    threads: int = 1,
    batch: int = 1,
    rounds: int = ROUNDS,
    reuse: bool = True,
    progress: ProgressSink = NO_PROGRESS,
) -> LatencyTable:
    """Time every distinct layer shape of a float file in every form of the target, and the whole file twice.

    Args:
        float_model: the float file, e.g. float.onnx.
        target: a runtime on this kind of CPU; auto: onnxruntime, or ``runtime``, on this machine.
        runtime: what is timed; auto: the runtime of the target.
        inference_precision: arithmetic beside integer kernels; auto: the runtime's own default.
        threads: of the sessions.
        batch: images at once.
        rounds: turns of every form.
        reuse: whether times that the user's cache holds are taken as they are.
        progress: told of stages.

    Returns:
        the times, from which the latency of any plan of the model follows.

    Raises:
        UsageError: a number out of range, or the target cannot be timed here.
        LampqError: the file cannot be read, or has no layer.
    """
    place = target_here(OutputOptions(target=target, runtime=_known(runtime)).target_name)
    options = ProbeOptions(
        threads=whole_number("threads", threads, least=1, most=MOST_THREADS),
        batch=whole_number("batch", batch, least=1, most=MOST_BATCH),
        rounds=whole_number("rounds", rounds, least=FEWEST_ROUNDS, most=MOST_TURNS),
        reuse=reuse,
        engine=engine_for(_known(runtime), inference_precision, place.name),
    )
    return measure(Path(float_model), place, options, progress=progress)


def _known(runtime: str) -> str:
    """The name of a runtime; UsageError for others."""
    options_of(OutputOptions, {"output": {"runtime": runtime}})
    return runtime
