"""A quantized file against the float one: accuracy, fidelity, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Accuracy, Fidelity, Latency, LayerReport, Report
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.data import Batch
from lampq_onnx.error_meter import ErrorMeter
from lampq_onnx.errors import GateError, UsageError
from lampq_onnx.group import ALONE, Group, own_items
from lampq_onnx.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime import Runner, compare_latency, layer_errors, open_runner
from lampq_onnx.runtime.changes import ChangeMeter
from lampq_onnx.tasks.classification import ClassificationMeter
from lampq_onnx.tasks.meter import Meter

Simulation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

BATCH = 32

FIDELITY_IMAGES = 256
"""Images on which the unoptimized file and the simulation run as well; they are several times slower."""

EXCESS_IMAGES = 64
"""Fewest images on which an excess error counts: rounding flips alone move it by percents on a few images."""

ACCURACY_IMAGES = 100
"""Fewer images than this deserve a word beside an accuracy."""

LAYER_IMAGES = 4
"""Images whose activations the layers are compared on."""

LAYER_BOUND = 1e-3
EXCESS_BOUND = 0.05
"""Bounds of the fidelity figures. Saturating kernels reach 1e-2 and 0.3; exact ones 1e-6 and a few percent of noise."""


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
) -> tuple[Accuracy, float, float | None, int]:
    """Stream the validation images once through all models.

    Args:
        reference: float file. quantized: the file, optimized. plain: the same without optimizations, or None.
        simulation: the quantized model in PyTorch, or None.
        batches: images, with labels where the task has them; all of them in every process.
        meter: of the task; None: top-1 and top-5.
        group: the processes that share them; the figures are those of all.
        changes: also counts the labelled images that are answered differently.

    Raises:
        UsageError: several processes, and another task than classification.

    Returns:
        accuracy, excess error of the optimized file, that of the simulation, and the images both were taken on.
    """
    whole = meter or ClassificationMeter()
    if group.size > 1 and not isinstance(whole, ClassificationMeter):
        raise UsageError("several processes share the validation of classification only", hint="run it in one process")
    fast, slow, simulated = ErrorMeter(), ErrorMeter(), ErrorMeter()
    compared = 0
    with progress.stage("validation", total) as advance:
        for batch in own_items(iter(batches), group):
            wanted, got = reference(batch.images), quantized(batch.images)
            whole.add(wanted, got, batch)
            if changes is not None and batch.labels is not None:
                changes.add(wanted, got, batch.labels, batch.start)
            if plain is not None and batch.start < FIDELITY_IMAGES:
                compared += len(batch.images)
                fast.add(wanted, got)
                slow.add(wanted, plain(batch.images))
                if simulation is not None:
                    simulated.add(wanted, simulation(batch.images))
            advance(batch.start + len(batch.images))
    if group.size > 1:
        assert isinstance(whole, ClassificationMeter)
        whole = whole.shared(group)
        fast, slow, simulated = (errors.shared(group) for errors in (fast, slow, simulated))
        compared = int(group.sum(np.array([float(compared)]))[0])
    excess = _excess(fast, slow) if plain is not None else 0.0
    simulation_excess = _excess(simulated, slow) if simulation is not None and plain is not None else None
    return whole.result(), excess, simulation_excess, compared


def measure_fidelity(
    model_path: Path,
    layers: Sequence[QuantizedLayer],
    images: npt.NDArray[np.float32],
    excess: float,
    simulation_excess: float | None,
    samples: int,
    *,
    threads: int,
) -> Fidelity:
    """Layer errors of a file, joined with the figures of the whole model."""
    errors = layer_errors(model_path, layers, images[:LAYER_IMAGES], threads=threads)
    worst = max(errors, key=lambda name: errors[name], default=None)
    return Fidelity(
        layer_max=errors[worst] if worst is not None else 0.0,
        layer_worst=worst,
        excess_error=excess,
        simulation_excess=simulation_excess,
        samples=samples,
    )


def measure_latency(
    reference: Path, quantized: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int
) -> Latency:
    """Sessions of their own, with the given threads, timed in turns."""
    first, second = (open_runner(path, threads=threads) for path in (reference, quantized))
    return compare_latency(first, second, images, threads=threads, runs=runs)


def fidelity_problems(fidelity: Fidelity) -> list[str]:
    """What is outside the bounds, in words; empty if nothing."""
    problems = []
    if fidelity.layer_max > LAYER_BOUND:
        problems.append(
            f"onnxruntime computes layer {fidelity.layer_worst} with a relative error of {fidelity.layer_max:.1e} "
            f"(bound {LAYER_BOUND:.0e}): 8-bit weights saturate in its kernel on CPUs without VNNI"
        )
    if fidelity.samples >= EXCESS_IMAGES and fidelity.excess_error > EXCESS_BOUND:
        problems.append(
            f"onnxruntime's kernels add {100 * fidelity.excess_error:.0f} % to the error of the model "
            f"(bound {100 * EXCESS_BOUND:.0f} %)"
        )
    return problems


def apply_gates(report: Report, *, max_drop: float | None = None, min_agreement: float | None = None) -> None:
    """Raise where the figures are outside the bounds; those of the fidelity always count.

    Args:
        report: what was measured.
        max_drop: points of the task's score.
        min_agreement: fraction of images with the same first answer.

    Raises:
        GateError: with every bound that failed.
    """
    accuracy = report.accuracy
    failed = []
    if max_drop is not None and accuracy.drop_points > max_drop:
        failed.append(f"{accuracy.metric} drops by {accuracy.drop_points:.2f} points, more than {max_drop:g}")
    if min_agreement is not None and accuracy.agreement < min_agreement:
        failed.append(f"agreement with float is {accuracy.agreement:.4f}, less than {min_agreement:g}")
    if failed:
        raise GateError(
            "the gate fails: " + "; ".join(failed) + _worst_layers(report.layers),
            hint="give it more bits, or a better calibration set",
        )
    problems = fidelity_problems(report.fidelity)
    if problems:
        raise GateError(
            "the file does not run on this machine as written: " + "; ".join(problems),
            hint="convert the plan for this machine (--target auto)",
        )


def _worst_layers(layers: Sequence[LayerReport], count: int = 3) -> str:
    """The layers whose outputs changed most, where that was measured; else those with the fewest bits."""
    errors = {layer.name: e for layer in layers if (e := layer.reconstruction_error) is not None}
    if errors:
        worst = sorted(errors, key=lambda name: -errors[name])[:count]
        return "; the layers that changed most: " + ", ".join(f"{name} ({errors[name]:.2g})" for name in worst)
    narrow = sorted(layers, key=lambda layer: (layer.weight_bits, layer.activation_bits))[:count]
    named = ", ".join(f"{layer.name} ({layer.weight_bits}/{layer.activation_bits} bits)" for layer in narrow)
    return f"; the layers with the fewest bits: {named}" if named else ""


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


def _excess(subject: ErrorMeter, standard: ErrorMeter) -> float:
    if standard.relative_error == 0:
        return 0.0 if subject.relative_error == 0 else float("inf")
    return subject.relative_error / standard.relative_error - 1
