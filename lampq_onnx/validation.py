"""A quantized file against the float one: accuracy, fidelity, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from lampq_onnx.artifacts.report import Accuracy, Fidelity, Latency
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.data import Batch
from lampq_onnx.errors import GateError, LampqError
from lampq_onnx.group import ALONE, Group, own_items
from lampq_onnx.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime import AccuracyMeter, Runner, compare_latency, layer_errors, open_runner
from lampq_onnx.runtime.changes import ChangeMeter

Simulation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

BATCH = 32

FIDELITY_IMAGES = 256
"""Images on which the unoptimized file and the simulation run as well; they are several times slower."""

EXCESS_IMAGES = 64
"""Fewest images on which an excess error counts: rounding flips alone move it by percents on a few images."""

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
    group: Group = ALONE,
    changes: ChangeMeter | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> tuple[Accuracy, float, float | None, int]:
    """Stream the validation images once through all models.

    Args:
        reference: float file. quantized: the file, optimized. plain: the same without optimizations, or None.
        simulation: the quantized model in PyTorch, or None.
        batches: labelled images, all of them in every process.
        group: the processes that share them; the figures are those of all.
        changes: also counts the images that are answered differently.

    Returns:
        accuracy, excess error of the optimized file, that of the simulation, and the images both were taken on.
    """
    whole, fast, slow, simulated = AccuracyMeter(), AccuracyMeter(), AccuracyMeter(), AccuracyMeter()
    compared = 0
    with progress.stage("validation", total) as advance:
        for batch in own_items(iter(batches), group):
            if batch.labels is None:
                raise LampqError("validation needs labelled images", hint="add class folders or a labels.csv")
            wanted, got = reference(batch.images), quantized(batch.images)
            _require_classes(wanted, got, batch.labels)
            whole.add(wanted, got, batch.labels)
            if changes is not None:
                changes.add(wanted, got, batch.labels, batch.start)
            if plain is not None and batch.start < FIDELITY_IMAGES:
                compared += len(batch.labels)
                fast.add(wanted, got, batch.labels)
                slow.add(wanted, plain(batch.images), batch.labels)
                if simulation is not None:
                    simulated.add(wanted, simulation(batch.images), batch.labels)
            advance(batch.start + len(batch.labels))
    if group.size > 1:
        whole, fast, slow, simulated = (meter.shared(group) for meter in (whole, fast, slow, simulated))
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
    errors = layer_errors(onnx.load(model_path), layers, images[:LAYER_IMAGES], threads=threads)
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


def apply_gates(
    accuracy: Accuracy, fidelity: Fidelity, *, max_drop: float | None = None, min_agreement: float | None = None
) -> None:
    """Raise where the figures are outside the bounds; those of the fidelity always count.

    Args:
        accuracy, fidelity: what was measured.
        max_drop: points of top-1.
        min_agreement: fraction of images with the same first answer.

    Raises:
        GateError: with every bound that failed.
    """
    failed = []
    if max_drop is not None and accuracy.drop_points > max_drop:
        failed.append(f"top-1 drops by {accuracy.drop_points:.2f} points, more than {max_drop:g}")
    if min_agreement is not None and accuracy.agreement < min_agreement:
        failed.append(f"agreement with float is {accuracy.agreement:.4f}, less than {min_agreement:g}")
    if failed:
        raise GateError("the gate fails: " + "; ".join(failed), hint="give it more bits, or a better calibration set")
    problems = fidelity_problems(fidelity)
    if problems:
        raise GateError(
            "the file does not run on this machine as written: " + "; ".join(problems),
            hint="convert the plan for this machine (--target auto)",
        )


def _excess(subject: AccuracyMeter, standard: AccuracyMeter) -> float:
    if standard.relative_error == 0:
        return 0.0 if subject.relative_error == 0 else float("inf")
    return subject.relative_error / standard.relative_error - 1


def _require_classes(
    wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> None:
    if wanted.ndim != 2 or wanted.shape != got.shape:
        raise LampqError(
            f"the files answer with shapes {wanted.shape} and {got.shape}, not with one row of class scores an image"
        )
    for what, logits in (("float", wanted), ("quantized", got)):
        if not np.isfinite(logits).all():
            raise LampqError(f"the {what} file answers with NaN or infinity on a validation image")
    if labels.size and int(labels.max()) >= wanted.shape[1]:
        raise LampqError(f"a label is {int(labels.max())}, and the model has {wanted.shape[1]} classes")
