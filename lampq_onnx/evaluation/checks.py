"""All checks of one quantized file, as a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts import BitPlan, Report
from lampq_onnx.artifacts.details import Details
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.artifacts.report import Size
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.config.options import OutputOptions
from lampq_onnx.converter.inspect import QuantizedLayer, broken_constants
from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing, batches_of
from lampq_onnx.evaluation.changes import ChangeMeter
from lampq_onnx.evaluation.gates import problems_of
from lampq_onnx.evaluation.measure import (
    BATCH,
    PairFigures,
    Simulation,
    measure_accuracy,
    measure_fidelity,
    measure_latency,
    not_measured,
)
from lampq_onnx.evaluation.output_errors import ERROR_IMAGES, changed_answers, measure_output_errors
from lampq_onnx.evaluation.records import bit_averages, layer_report
from lampq_onnx.evaluation.tasks.guard import require_moving_scores
from lampq_onnx.evaluation.tasks.meters import meter_for
from lampq_onnx.graph.model_file import file_bytes, file_sha256, load_model
from lampq_onnx.measures.error_meter import Outputs
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import Clock, ProgressSink
from lampq_onnx.runtime import describe_environment, open_runner
from lampq_onnx.runtime.explain import slowness
from lampq_onnx.runtime.operators import operator_times

PROFILED_RUNS = 10
"""Of each file; a profile says where the time goes, the latency says how much it is."""


@dataclass(frozen=True)
class FilePair:
    """Two files and the images to compare them on.

    Attributes:
        model: name for people.
        layers: quantized layers of the second file.
        plan: of the second file; None for files of other tools.
        images: with what the task is scored against.
        preprocessing: what they go through.
        task: what the outputs mean.
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
    """Refuse files whose score or agreement cannot change, before the images are gone through.

    Raises:
        LampqError: see `require_moving_scores`; also a float file that does not load.
    """
    run = open_runner(files.reference, threads=threads, answers=files.task.outputs)

    def answer(images: npt.NDArray[np.float32]) -> Outputs:
        step = run.fixed_batch or len(images)
        whole = np.resize(images, (-(-len(images) // step) * step, *images.shape[1:]))
        return run(whole)[: len(images)]

    require_moving_scores(files.task, files.images, files.preprocessing, answer, named=str(files.reference))


def share_accuracy(
    files: FilePair,
    threads: int,
    group: Group,
    progress: ProgressSink,
    *,
    simulation: Simulation | None = None,
    changes: ChangeMeter | None = None,
) -> PairFigures:
    """This process's part of the accuracy, and the figures of all; see `measure_accuracy`.

    Args:
        changes: collects the images of this process whose answer changes.
    """
    answers = files.task.outputs
    return measure_accuracy(
        open_runner(files.reference, threads=threads, answers=answers),
        open_runner(files.quantized, threads=threads, answers=answers),
        open_runner(files.quantized, threads=threads, optimize=False, answers=answers),
        simulation,
        batches_of(files.images, files.preprocessing, BATCH),
        total=len(files.images),
        meter=meter_for(files.task, files.images, files.preprocessing),
        group=group,
        changes=changes,
        progress=progress,
    )


def _partial(group: Group) -> list[str]:
    if group.size == 1:
        return []
    return [f"the images shown as changed are those of one of {group.size} processes"]


def check_files(
    files: FilePair,
    options: OutputOptions,
    *,
    target: str,
    threads: int,
    clock: Clock,
    limits: GateLimits,
    simulation: Simulation | None = None,
    group: Group = ALONE,
) -> Report:
    """Accuracy, fidelity and latency of a quantized file; what only other stages know is left out of the report.

    Args:
        files: what to compare.
        options: threads and latency runs.
        target: name of the target the file was made for.
        threads: of the accuracy passes.
        clock: keeps the seconds.
        limits: of the gates, for the report.
        simulation: the quantized model in PyTorch, where there is one.
        group: the processes that share the images; the others call `share_accuracy`.

    Raises:
        LampqError: a file does not load, or images and files do not fit.
    """
    changes = ChangeMeter() if files.task.kind == "classification" else None
    figures = share_accuracy(files, threads, group, clock, simulation=simulation, changes=changes)
    accuracy = figures.accuracy
    first = next(batches_of(files.images, files.preprocessing, ERROR_IMAGES)).images
    with clock.stage("fidelity"):
        fidelity = measure_fidelity(files.quantized, files.layers, first, figures, threads=threads)
    batch = np.resize(first, (options.latency_batch, *first.shape[1:]))
    with clock.stage("latency"):
        latency = measure_latency(
            files.reference,
            files.quantized,
            batch,
            threads=options.latency_threads,
            runs=options.latency_runs,
        )
        operators = operator_times(
            files.reference, files.quantized, batch, threads=options.latency_threads, runs=PROFILED_RUNS
        )
    with clock.stage("output errors"):
        errors = measure_output_errors(files.reference, files.quantized, files.layers, first, threads=threads)
    details = Details(
        errors=errors,
        operators=operators,
        changes=None if changes is None else changed_answers(changes, files.images, files.preprocessing),
    )
    slow = slowness(files.reference, files.quantized, batch, latency) if latency.speedup < 1 else []
    return Report(
        model=files.model,
        preprocessing=files.preprocessing.describe(),
        accuracy=accuracy,
        size=Size(float_bytes=file_bytes(files.reference), quantized_bytes=file_bytes(files.quantized)),
        bits=bit_averages(files.plan, files.layers),
        latency=latency,
        fidelity=fidelity,
        seconds=dict(clock.seconds),
        environment=describe_environment(target),
        layers=tuple(layer_report(layer) for layer in files.layers),
        details=details,
        limits=limits,
        problems=problems_of(accuracy, fidelity, figures.broken_plain, broken_constants(load_model(files.quantized))),
        model_sha256=file_sha256(files.quantized),
        notes=(*slow, *_partial(group), *not_measured(accuracy, fidelity, latency)),
    )
