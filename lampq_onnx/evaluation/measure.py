"""Measure accuracy, fidelity and latency of a quantized file against the float file."""

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
from lampq_onnx.evaluation.tasks.detection import DetectionMeter
from lampq_onnx.evaluation.tasks.meter import Meter
from lampq_onnx.measures.error_meter import ErrorMeter, Outputs
from lampq_onnx.running.memory import give_back
from lampq_onnx.running.processes import ALONE, Group, own_items
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime import Runner, compare_latency, layer_errors, open_runner
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine

Simulation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""The quantized model in PyTorch: images (n, c, h, w) to outputs (n, ...)."""

BATCH = 32
"""Largest number of images in a pass."""

PASS_PIXELS = 8 * 224 * 224
"""Pixels of one pass: the activations of more images take memory and save no time."""

FIDELITY_IMAGES = 256
"""Images on which the unoptimized file and the simulation run too; they are several times slower."""

ACCURACY_IMAGES = 100
"""Below this number of images, the report adds a note to the accuracy."""

LAYER_IMAGES = 4
"""Images whose activations are used to compare layers."""


@dataclass(frozen=True)
class PairFigures:
    """Figures from one pass over the validation images.

    Attributes:
        accuracy: scores against the labels and the float file.
        excess_error: error to the float file, optimized over unoptimized file, minus 1; None: not finite.
        simulation_excess: the same for the simulation; None: there was none, or it is not finite.
        compared: images on which both excess errors were measured.
        broken_plain: images for which the unoptimized file gives NaN or infinity.
    """

    accuracy: Accuracy
    excess_error: float | None
    simulation_excess: float | None
    compared: int
    broken_plain: int = 0


def images_per_run(size: tuple[int, int], *runners: Runner | None) -> int:
    """Images of a pass through all runners.

    Args:
        size: height and width of an image.
        runners: if one of them prescribes the size of a batch, the pass has `BATCH` images.
    """
    if any(runner is not None and runner.fixed_batch is not None for runner in runners):
        return BATCH
    return max(1, min(BATCH, PASS_PIXELS // (size[0] * size[1])))


def measure_accuracy(
    reference: Runner,
    quantized: Runner,
    plain: Runner | None,
    simulation: Simulation | None,
    batches: Iterable[Batch],
    *,
    total: int,
    exact: Runner | None = None,
    meter: Meter | None = None,
    group: Group = ALONE,
    changes: ChangeMeter | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> PairFigures:
    """Stream the validation images once through all models.

    An image for which the quantized file gives NaN or infinity counts as answered with zeros, and neither as right nor
    as the float model's answer. So every figure stays finite, and `Accuracy.broken` counts these images.

    Args:
        reference: the float file.
        quantized: the quantized file, optimized.
        plain: the quantized file without optimizations, or None.
        simulation: the quantized model in PyTorch, or None.
        batches: images, with labels if the task has them; every process gets all of them.
        total: number of images.
        exact: the quantized file in float32 beside integers; None: ``quantized`` is that.
        meter: meter of the task; None: top-1 and top-5.
        group: the processes that share the images; the figures are those of all processes.
        changes: also collects the labelled images that are answered differently.
        progress: is told how many images are done.

    Raises:
        UsageError: several processes share a task other than classification.
        LampqError: the float file gives NaN or infinity, or the outputs do not fit the task.
    """
    whole = meter or ClassificationMeter()
    if group.size > 1 and not isinstance(whole, ClassificationMeter):
        raise UsageError("several processes share the validation of classification only", hint="run it in one process")
    arranged = whole.in_order if isinstance(whole, DetectionMeter) else _as_they_are
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
                fast.add(wanted, arranged(wanted, got if exact is None else _finite(exact(batch.images))[0]))
                unoptimized, lost = _finite(plain(batch.images))
                broken_plain += lost
                slow.add(wanted, arranged(wanted, unoptimized))
                if simulation is not None:
                    simulated.add(wanted, arranged(wanted, _finite(simulation(batch.images))[0]))
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


def _as_they_are(_: Outputs, quantized: Outputs) -> Outputs:
    return quantized


def _finite(outputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int]:
    """Replace outputs (n, ...) of images with NaN or infinity by zeros, and count these images."""
    whole = np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim)))
    if whole.all():
        return outputs, 0
    found = np.where(whole.reshape(-1, *(1,) * (outputs.ndim - 1)), outputs, np.float32(0))
    return found, int((~whole).sum())


def _with_broken(accuracy: Accuracy, broken: int) -> Accuracy:
    """Correct the figures for ``broken`` images without an answer: the zeros in their place may be right by chance."""
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
    engine: Engine = ONNXRUNTIME,
) -> Fidelity:
    """Measure the layer errors of a file, and join them with the figures of the whole model."""
    errors = layer_errors(model_path, layers, images[:LAYER_IMAGES], threads=threads, engine=engine)
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
    reference: Path,
    quantized: Path,
    images: npt.NDArray[np.float32],
    *,
    threads: int,
    runs: int,
    engine: Engine = ONNXRUNTIME,
) -> Latency:
    """Time both files alternately, in separate sessions with the given number of threads."""
    first = open_runner(reference, threads=threads, engine=engine)
    give_back()  # loading takes several times what a session holds
    second = open_runner(quantized, threads=threads, engine=engine)
    give_back()
    return compare_latency(first, second, images, threads=threads, runs=runs)


def not_measured(accuracy: Accuracy, fidelity: Fidelity, latency: Latency) -> list[str]:
    """Say in words what the figures do not cover."""
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
        found.append(
            f"accuracy on {accuracy.samples} images has a resolution of {100 / accuracy.samples:.1f} points at best"
        )
    found.append(
        f"not measured: other CPUs or runtimes; a batch other than {latency.batch}; threads other than "
        f"{latency.threads}"
    )
    return found


def _excess(subject: ErrorMeter, standard: ErrorMeter) -> float | None:
    """Return the error over the standard's, minus 1; None: the standard has no error, but the subject has."""
    if standard.relative_error == 0:
        return 0.0 if subject.relative_error == 0 else None
    return subject.relative_error / standard.relative_error - 1
