"""A quantized file against the float one: accuracy, fidelity, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, Fidelity, Latency, TopK
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.data import Batch
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.changes import ChangeMeter
from lampq_onnx.evaluation.gates import EXCESS_IMAGES
from lampq_onnx.evaluation.tasks.classification import ClassificationMeter
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.measures.error_meter import ErrorMeter
from lampq_onnx.running.processes import ALONE, Group, own_items
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime import Runner, compare_latency, layer_errors, open_runner

Simulation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

BATCH = 32

FIDELITY_IMAGES = 256
"""Images on which the unoptimized file and the simulation run as well; they are several times slower."""

ACCURACY_IMAGES = 100
"""Fewer images than this deserve a word beside an accuracy."""

LAYER_IMAGES = 4
"""Images whose activations the layers are compared on."""


@dataclass(frozen=True)
class PairFigures:
    """What one pass over the validation images says of a quantized file.

    Attributes:
        accuracy: against the labels and the float file.
        excess_error: error to the float file, optimized over unoptimized file, minus 1; None: not finite.
        simulation_excess: the same of the simulation; None: there was none, or it is not finite.
        compared: images that both excess errors were taken on.
        broken_plain: images that the unoptimized file answers with NaN or infinity.
    """

    accuracy: Accuracy
    excess_error: float | None
    simulation_excess: float | None
    compared: int
    broken_plain: int = 0


def measure_accuracy(
    reference: Runner,
    quantized: Runner,
    plain: Runner | None,
    simulation: Simulation | None,
    batches: Iterable[Batch],
    *,
    total: int,
    meter: Meter | None = None,
    group: Group = ALONE,
    changes: ChangeMeter | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> PairFigures:
    """Stream the validation images once through all models.

    Args:
        reference: float file. quantized: the file, optimized. plain: the same without optimizations, or None.
        simulation: the quantized model in PyTorch, or None.
        batches: images, with labels where the task has them; all of them in every process.
        meter: of the task; None: top-1 and top-5.
        group: the processes that share them; the figures are those of all.
        changes: also counts the labelled images that are answered differently.

    An image that the quantized file answers with NaN or infinity counts as answered with zeros, and neither as right
    nor as float's answer: every figure stays finite, and `Accuracy.broken` counts these images.

    Raises:
        UsageError: several processes, and another task than classification.
        LampqError: the float file answers with NaN or infinity, or the outputs do not fit the task.
    """
    whole = meter or ClassificationMeter()
    if group.size > 1 and not isinstance(whole, ClassificationMeter):
        raise UsageError("several processes share the validation of classification only", hint="run it in one process")
    fast, slow, simulated = ErrorMeter(), ErrorMeter(), ErrorMeter()
    compared = broken = broken_plain = 0
    with progress.stage("validation", total) as advance:
        for batch in own_items(iter(batches), group):
            wanted = reference(batch.images)
            got, lost = _finite(quantized(batch.images))
            broken += lost
            whole.add(wanted, got, batch)
            if changes is not None and batch.labels is not None:
                changes.add(wanted, got, batch.labels, batch.start)
            if plain is not None and batch.start < FIDELITY_IMAGES:
                compared += len(batch.images)
                fast.add(wanted, got)
                unoptimized, lost = _finite(plain(batch.images))
                broken_plain += lost
                slow.add(wanted, unoptimized)
                if simulation is not None:
                    simulated.add(wanted, _finite(simulation(batch.images))[0])
            advance(batch.start + len(batch.images))
    if group.size > 1:
        assert isinstance(whole, ClassificationMeter)
        whole = whole.shared(group)
        fast, slow, simulated = (errors.shared(group) for errors in (fast, slow, simulated))
        counts = group.sum(np.array([compared, broken, broken_plain], dtype=np.float64))
        compared, broken, broken_plain = (int(count) for count in counts)
    return PairFigures(
        accuracy=_with_broken(whole.result(), broken),
        excess_error=_excess(fast, slow) if plain is not None else 0.0,
        simulation_excess=_excess(simulated, slow) if simulation is not None and plain is not None else None,
        compared=compared,
        broken_plain=broken_plain,
    )


def _finite(outputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int]:
    """The outputs (n, ...) with zeros for images that have NaN or infinity among theirs, and how many those are."""
    whole = np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim)))
    if whole.all():
        return outputs, 0
    found = np.where(whole.reshape(-1, *(1,) * (outputs.ndim - 1)), outputs, np.float32(0))
    return found, int((~whole).sum())


def _with_broken(accuracy: Accuracy, broken: int) -> Accuracy:
    """The figures where ``broken`` images have no answer: the zeros in their place may be right by chance."""
    if not broken:
        return accuracy
    most = 1 - broken / accuracy.samples
    top5 = accuracy.quantized.top5
    quantized = TopK(top1=min(accuracy.quantized.top1, most), top5=None if top5 is None else min(top5, most))
    return accuracy.model_copy(
        update={
            "broken": broken,
            "quantized": quantized,
            "drop_points": 100 * (accuracy.float_.top1 - quantized.top1),
            "agreement": min(accuracy.agreement, most),
        }
    )


def measure_fidelity(
    model_path: Path,
    layers: Sequence[QuantizedLayer],
    images: npt.NDArray[np.float32],
    figures: PairFigures,
    *,
    threads: int,
) -> Fidelity:
    """Layer errors of a file, joined with the figures of the whole model."""
    errors = layer_errors(model_path, layers, images[:LAYER_IMAGES], threads=threads)
    worst = max(errors, key=lambda name: errors[name], default=None)
    largest = errors[worst] if worst is not None else 0.0
    return Fidelity(
        layer_max=largest if np.isfinite(largest) else None,
        layer_worst=worst,
        excess_error=figures.excess_error,
        simulation_excess=figures.simulation_excess,
        samples=figures.compared,
    )


def measure_latency(
    reference: Path, quantized: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int
) -> Latency:
    """Sessions of their own, with the given threads, timed in turns."""
    first, second = (open_runner(path, threads=threads) for path in (reference, quantized))
    return compare_latency(first, second, images, threads=threads, runs=runs)


def not_measured(accuracy: Accuracy, fidelity: Fidelity, latency: Latency) -> list[str]:
    """What the figures do not say, in words."""
    found = []
    if fidelity.layer_worst is None:
        found.append("no layer was compared with its reference arithmetic: the file holds no quantized layer")
    if fidelity.samples < EXCESS_IMAGES:
        found.append(
            f"not judged: the error that kernels add over the whole model ({fidelity.samples} images, and "
            f"{EXCESS_IMAGES} are needed)"
        )
    if fidelity.simulation_excess is None:
        found.append("not measured: the simulation in PyTorch, which only quantize has")
    if accuracy.samples < ACCURACY_IMAGES:
        found.append(f"accuracy on {accuracy.samples} images is known to {100 / accuracy.samples:.1f} points at best")
    found.append(
        f"not measured: any other CPU or runtime than this one, batches other than {latency.batch} and threads other "
        f"than {latency.threads} for the latency"
    )
    return found


def _excess(subject: ErrorMeter, standard: ErrorMeter) -> float | None:
    """Error over the standard's, minus 1; None: the standard has no error, and the subject has."""
    if standard.relative_error == 0:
        return 0.0 if subject.relative_error == 0 else None
    return subject.relative_error / standard.relative_error - 1
