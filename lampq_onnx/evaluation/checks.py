"""Run all checks of one quantized file and make the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts import BitPlan, Report
from lampq_onnx.artifacts.details import Details
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.artifacts.report import Size
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.converter.inspect import QuantizedLayer, broken_constants
from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing, batches_of
from lampq_onnx.data.pieces import in_pieces
from lampq_onnx.evaluation.changes import ChangeMeter
from lampq_onnx.evaluation.gates import problems_of
from lampq_onnx.evaluation.measure import (
    FIDELITY_IMAGES,
    PairFigures,
    Simulation,
    images_per_run,
    measure_accuracy,
    measure_fidelity,
    measure_latency,
    not_measured,
)
from lampq_onnx.evaluation.output_errors import ERROR_IMAGES, changed_answers, measure_output_errors
from lampq_onnx.evaluation.records import bit_averages, layer_report, now
from lampq_onnx.evaluation.simulated import answers_before
from lampq_onnx.evaluation.tasks.guard import require_moving_scores
from lampq_onnx.evaluation.tasks.meters import meter_for
from lampq_onnx.graph.model_file import file_bytes, file_sha256, load_model
from lampq_onnx.measures.error_meter import Outputs
from lampq_onnx.running.memory import give_back
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import Clock, ProgressSink
from lampq_onnx.runtime import Runner, describe_environment, open_runner
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine, engine_for
from lampq_onnx.runtime.explain import explain_file, slowness
from lampq_onnx.runtime.operators import operator_times
from lampq_onnx.runtime.runtimes import described, in_float32, runtime_of
from lampq_onnx.targets import TARGETS

PROFILED_RUNS = 10
"""Runs of each file in a profile: the profile shows where the time goes, the latency how much it is."""

NAMED_LAYERS = 8
"""Number of layers without an integer kernel that a note names."""


@dataclass(frozen=True)
class FilePair:
    """Two files and the images to compare them on.

    Attributes:
        model: name of the model for messages.
        reference: the float file.
        quantized: the quantized file.
        layers: quantized layers of the quantized file.
        plan: plan of the quantized file; None for files of other tools.
        images: validation images, with the labels or boxes that the task needs.
        preprocessing: preprocessing of the images.
        task: meaning of the outputs.
    """

    model: str
    reference: Path
    quantized: Path
    layers: Sequence[QuantizedLayer]
    plan: BitPlan | None
    images: ImageSource | BatchedImages
    preprocessing: Preprocessing
    task: TaskSpec


def require_scores(files: FilePair, threads: int) -> None:
    """Refuse files whose score or agreement cannot change, before running the images.

    Raises:
        LampqError: see `require_moving_scores`; or the float file does not load.
    """
    run = open_runner(files.reference, threads=threads, answers=files.task.outputs, lean=True)

    def answer(images: npt.NDArray[np.float32]) -> Outputs:
        step = run.fixed_batch or images_per_run(files.preprocessing.size)
        padded = -(-len(images) // step) * step if run.fixed_batch else len(images)
        return in_pieces(run, np.resize(images, (padded, *images.shape[1:])), step)[: len(images)]

    require_moving_scores(files.task, files.images, files.preprocessing, answer, named=str(files.reference))


def share_accuracy(
    files: FilePair,
    threads: int,
    group: Group,
    progress: ProgressSink,
    *,
    simulation: Simulation | None = None,
    changes: ChangeMeter | None = None,
    engine: Engine = ONNXRUNTIME,
) -> PairFigures:
    """Compute this process's part of the accuracy, and return the figures of all processes; see `measure_accuracy`.

    Args:
        files: what to compare.
        threads: threads of the sessions.
        group: the processes that share the images.
        progress: is told how many images are done.
        simulation: the quantized model in PyTorch, if there is one.
        changes: collects the images of this process whose answer changes.
        engine: what runs the files; the float file always computes in float32.
    """
    answers = files.task.outputs
    float32 = engine.in_float32()
    runners = (
        _lean(files.reference, threads, answers, float32),
        _lean(files.quantized, threads, answers, engine),
        _lean(files.quantized, threads, answers, ONNXRUNTIME, optimize=False),
    )
    return measure_accuracy(
        *runners,
        simulation,
        batches_of(files.images, files.preprocessing, images_per_run(files.preprocessing.size, *runners)),
        total=len(files.images),
        exact=None if in_float32(engine) else _lean(files.quantized, threads, answers, float32),
        meter=meter_for(files.task, files.images, files.preprocessing),
        group=group,
        changes=changes,
        progress=progress,
    )


def _lean(path: Path, threads: int, answers: Sequence[str], engine: Engine, *, optimize: bool = True) -> Runner:
    """Open a file that no time is measured of, and return what loading took to the system."""
    runner = open_runner(path, threads=threads, optimize=optimize, answers=answers, engine=engine, lean=True)
    give_back()
    return runner


def _accuracy(
    files: FilePair,
    threads: int,
    clock: Clock,
    simulation: AbstractContextManager[Simulation | None],
    *,
    group: Group,
    changes: ChangeMeter | None,
    engine: Engine,
) -> PairFigures:
    """Compute the accuracy, after the simulation has answered if its answers can be held; see `share_accuracy`."""
    with ExitStack() as stack:
        simulated = stack.enter_context(simulation)
        if simulated is not None:
            with clock.stage("simulation", min(len(files.images), FIDELITY_IMAGES)) as advance:
                batches = batches_of(files.images, files.preprocessing, images_per_run(files.preprocessing.size))
                before = answers_before(simulated, batches, advance)
            if before is not None:
                simulated = before
                stack.close()  # frees the weights of the simulation
        return share_accuracy(files, threads, group, clock, simulation=simulated, changes=changes, engine=engine)


def _kernels(files: FilePair, images: npt.NDArray[np.float32], engine: Engine) -> list[str]:
    """Say what a runtime other than onnxruntime reports of the layers, and how they were compared."""
    if engine.runtime == ONNXRUNTIME.runtime:
        return []
    names = {layer.name for layer in files.layers}
    layers = [
        layer
        for layer in explain_file(files.quantized, images, threads=1, runs=1, engine=engine).layers
        if layer.name in names
    ]
    others = [f"{layer.name} ({layer.kernel}: {layer.reason})" for layer in layers if not layer.integer]
    found = f"{described(engine)} runs {len(layers) - len(others)} of {len(layers)} quantized layers on integer kernels"
    notes = [f"{found}{'; not: ' + ', '.join(others[:NAMED_LAYERS]) if others else ''}"]
    if not in_float32(engine):
        notes.append("layers, and the error that kernels add, were compared in float32, accuracy and latency as run")
    return notes


def _partial(group: Group) -> list[str]:
    if group.size == 1:
        return []
    return [f"the list of changed images comes from one of {group.size} processes"]


def check_files(
    files: FilePair,
    options: OutputOptions,
    *,
    target: str,
    threads: int,
    clock: Clock,
    limits: GateLimits,
    simulation: AbstractContextManager[Simulation | None] | None = None,
    group: Group = ALONE,
    details: bool = True,
) -> Report:
    """Measure accuracy, fidelity and latency of a quantized file.

    Facts that only other stages know are not in the report.

    Args:
        files: what to compare.
        options: threads and latency runs.
        target: name of the target that the file was made for.
        threads: threads for the accuracy passes.
        clock: keeps the seconds of each stage.
        limits: gates, stored in the report.
        simulation: gives the quantized model in PyTorch, if there is one; it exists while the accuracy is measured.
        group: the processes that share the images; the other processes call `share_accuracy`.
        details: whether errors along the model and times by operator are measured too.

    Raises:
        LampqError: a file does not load, or images and files do not fit together.
    """
    engine = engine_for(options.runtime, options.inference_precision, target)
    changes = ChangeMeter() if files.task.kind == "classification" else None
    figures = _accuracy(files, threads, clock, simulation or nullcontext(), group=group, changes=changes, engine=engine)
    give_back()  # the sessions
    accuracy = figures.accuracy
    first = next(batches_of(files.images, files.preprocessing, ERROR_IMAGES)).images
    with clock.stage("fidelity"):
        fidelity = measure_fidelity(files.quantized, files.layers, first, figures, threads=threads, engine=engine)
    batch = np.resize(first, (options.latency_batch, *first.shape[1:]))
    with clock.stage("latency"):
        latency = measure_latency(
            files.reference,
            files.quantized,
            batch,
            threads=options.latency_threads,
            runs=options.latency_runs,
            engine=engine,
        )
        operators = None
        if details:
            operators = operator_times(
                files.reference,
                files.quantized,
                batch,
                threads=options.latency_threads,
                runs=PROFILED_RUNS,
                engine=engine,
            )
    errors = None
    if details:
        with clock.stage("output errors"):
            errors = measure_output_errors(files.reference, files.quantized, files.layers, first, threads=threads)
    found = Details(
        errors=errors,
        operators=operators,
        changes=None
        if changes is None
        else changed_answers(changes, files.images, files.preprocessing, files.task.classes),
    )
    slower = latency.speedup_quartiles[1] < 1  # not by chance
    elsewhere = _elsewhere(target)
    slow = slowness(files.reference, files.quantized, batch, latency, engine=engine) if slower and not elsewhere else []
    return Report(
        model=files.model,
        written=now(),
        preprocessing=files.preprocessing.describe(),
        accuracy=accuracy,
        size=Size(float_bytes=file_bytes(files.reference), quantized_bytes=file_bytes(files.quantized)),
        bits=bit_averages(files.plan, files.layers),
        latency=latency,
        fidelity=fidelity,
        seconds=dict(clock.seconds),
        environment=describe_environment(target).model_copy(update={"runtime": described(engine)}),
        layers=tuple(layer_report(layer) for layer in files.layers),
        details=found,
        limits=limits,
        problems=problems_of(
            accuracy,
            fidelity,
            figures.broken_plain,
            broken_constants(load_model(files.quantized)),
            runtime_of(engine.runtime).words,
        ),
        model_sha256=file_sha256(files.quantized),
        notes=(
            *_scored(files.task),
            *elsewhere,
            *slow,
            *_kernels(files, batch, engine),
            *_partial(group),
            *not_measured(accuracy, fidelity, latency),
        ),
    )


def _elsewhere(target: str) -> list[str]:
    """Say that times were measured on another device than the one that the file is made for."""
    known = TARGETS.get(target)
    if known is None or known.device == "CPU":
        return []
    return [f"made for {known.runtime}, and timed on this CPU: these times say nothing about a {known.device}"]


def _scored(task: TaskSpec) -> list[str]:
    """Say that features are scored because the outputs show no other task."""
    return [f"scored by the features {', '.join(task.outputs)}: {task.reason}"] if task.reason else []
