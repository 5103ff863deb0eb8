"""Refuse a loss or a score that cannot change, before it rates a broken model as perfect.

Shapes are not used for this: outputs are changed, and loss, divergence and agreement are measured on the changed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import ZERO_NATS
from lampq_onnx.artifacts.task import SEVERAL, TaskName, TaskSpec
from lampq_onnx.data import Batch, BatchedImages, ImageSource, Preprocessing
from lampq_onnx.errors import LampqError, ScoreError
from lampq_onnx.evaluation.tasks.measured import assumed
from lampq_onnx.evaluation.tasks.meter import Meter, truth_of
from lampq_onnx.evaluation.tasks.meters import METERS, meter_for
from lampq_onnx.evaluation.tasks.regression import scatter_of
from lampq_onnx.measures.error_meter import Outputs

ERRORS = (0.05, 0.5)
"""Relative changes that a loss must notice: those of a good and of a bad quantized model."""

IMAGES = 8
"""Most images that a score is tried on."""

DRAWS = 4

SURE = 10.0
"""Standard deviation of scores whose probabilities are nearly all 0 or 1."""

Distance = Callable[[Outputs, Outputs], npt.NDArray[np.float64]]


def changed(outputs: Outputs, size: float, seed: int = 0) -> Outputs:
    """Change every number by at most ``size`` of its magnitude, seeded; for a size below 1 the sign stays.

    Zeros change by as much of the outputs' root mean square, or of 1 if all are zero.
    """
    values = outputs.astype(np.float64)
    typical = float(np.sqrt((values**2).mean())) or 1.0
    scale = np.where(values == 0, typical, np.abs(values))
    noise = np.random.default_rng(seed).uniform(-size, size, values.shape)
    result: Outputs = (values + scale * noise).astype(outputs.dtype)
    return result


def notices(distance: Distance, outputs: Outputs) -> bool:
    """Whether a loss is above zero for any of several changes of ``outputs`` (n, ...).

    Args:
        distance: distance of changed outputs from the original ones, per image in nats.
        outputs: the original outputs.
    """
    return any(
        float(np.max(distance(changed(outputs, size, seed), outputs))) > ZERO_NATS
        for size in ERRORS
        for seed in range(DRAWS)
    )


def require_moving_scores(
    spec: TaskSpec,
    source: ImageSource | BatchedImages,
    preprocessing: Preprocessing,
    answer: Callable[[npt.NDArray[np.float32]], Outputs],
    *,
    named: str,
) -> None:
    """Refuse a task whose divergence or agreement cannot change with these outputs and this number of images.

    Args:
        spec: the task.
        source: the validation images; only their number and labels are used.
        preprocessing: gives the shape of an image.
        answer: returns float outputs (n, ...) for images (n, c, h, w); it is called with generated images.
        named: what is refused, for the message.

    Raises:
        LampqError: names the task, what is constant, and the tasks that would work; or labels have another shape.
    """
    count = min(len(source), IMAGES)
    shape = (count, preprocessing.channels, *preprocessing.size)
    outputs = answer(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    if spec.takes_numbers and source.targets is not None:
        truth = truth_of(source.targets, (len(source), *outputs.shape[1:]))
        if spec.kind == "regression":
            scatter_of(truth, "label")
    # A model may answer all noise alike; its answers to real images differ.
    outputs = changed(outputs, ERRORS[-1])
    shape_of = outputs.shape[1:]
    why = _constant(lambda: meter_for(assumed(spec, outputs), source, preprocessing), spec, outputs)
    if not why:
        return
    many = changed(np.resize(outputs, (IMAGES, *shape_of)), ERRORS[-1])
    if spec.kind == SEVERAL or (spec.kind in METERS and _fits(spec.kind, many)):
        hint = "validate on more images"
    else:
        others = [kind for kind in METERS if kind != spec.kind and _fits(kind, outputs)]
        hint = f"quantize the model with another task: --task {' or --task '.join(others)}"
    raise LampqError(f"{named} cannot be judged by the task {spec.kind}: {why}", hint=hint)


def _constant(make: Callable[[], Meter], spec: TaskSpec, outputs: Outputs) -> str:
    """Say what does not change; empty if everything does."""
    small = [_measured(make(), spec, outputs, changed(outputs, size, seed)) for seed, size in enumerate(ERRORS, 1)]
    if max(kl for kl, _ in small) <= ZERO_NATS:
        return f"its KL divergence stays 0 when the outputs change by {100 * ERRORS[-1]:.0f} %"
    others = (-outputs, outputs[::-1], *(np.roll(outputs, 1, axis) for axis in range(1, outputs.ndim)))
    if all(_measured(make(), spec, outputs, other)[1] == 1 for other in (*others, *_unlike(outputs))):
        return f"its agreement stays 100 % on {len(outputs)} image(s) whatever the quantized model answers"
    return ""


def _unlike(outputs: Outputs) -> Iterator[Outputs]:
    """Return unrelated outputs: noise of the same size, and of a size that makes any model certain."""
    values = outputs.astype(np.float64)
    typical = float(np.sqrt((values**2).mean())) or 1.0
    for seed, size in enumerate((typical, max(typical, SURE))):
        noise = np.random.default_rng(seed).normal(size=values.shape)
        yield (size * noise).astype(outputs.dtype)


def _measured(meter: Meter, spec: TaskSpec, reference: Outputs, quantized: Outputs) -> tuple[float, float]:
    """Measure KL divergence and agreement of two outputs."""
    classes = any(part.kind == "classification" for part in (spec, *spec.parts))
    labels = np.zeros(len(reference), np.int64) if classes else None
    meter.add(reference, quantized, Batch(np.zeros((len(reference), 0), np.float32), labels, 0))
    try:
        found = meter.result()
    except ScoreError:
        return 0.0, 1.0
    return found.kl, found.agreement


def _fits(kind: TaskName, outputs: Outputs) -> bool:
    """Whether the scores of a task can be computed from such outputs, and change with them."""
    spec = TaskSpec(kind=kind)
    try:
        return not _constant(lambda: METERS[kind](assumed(spec, outputs)), spec, outputs)
    except LampqError:  # outputs of other tasks are refused with a message
        return False
