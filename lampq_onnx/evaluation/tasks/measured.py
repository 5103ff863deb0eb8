"""What a task needs to know of the float model's outputs on real images: the spread of its outputs, or its blank."""

from __future__ import annotations

from lampq_onnx.artifacts.task import SEVERAL, TaskSpec
from lampq_onnx.evaluation.tasks.sequence import most_frequent
from lampq_onnx.evaluation.tasks.several import parts_of
from lampq_onnx.evaluation.tasks.spread import feature_spread, output_spread, unit_count
from lampq_onnx.measures.error_meter import Outputs


def needs_measuring(spec: TaskSpec) -> bool:
    """Whether a task cannot be scored before the float model's outputs are known."""
    return spec.has_unit or spec.kind == "sequence" or any(map(needs_measuring, spec.parts))


def measured(spec: TaskSpec, outputs: Outputs) -> TaskSpec:
    """Return the task with what it needs to know.

    Args:
        spec: the task.
        outputs: outputs of the float model for calibration images, (n, ...).

    Raises:
        LampqError: an output is the same on all images.
    """
    if spec.kind == SEVERAL:
        parts = parts_of(outputs, [part.shape for part in spec.parts])
        known = tuple(measured(part, own) for part, own in zip(spec.parts, parts, strict=True))
        return spec.model_copy(update={"parts": known})
    if spec.kind == "sequence":
        return spec.model_copy(update={"blank": most_frequent(outputs)})
    if not spec.has_unit:
        return spec
    spread = feature_spread(outputs) if spec.kind == "features" else output_spread(outputs)
    return spec.model_copy(update={"spread": spread})


def assumed(spec: TaskSpec, outputs: Outputs) -> TaskSpec:
    """Return the task with a spread of 1 and the first class as blank, where they are not measured yet.

    Args:
        spec: the task.
        outputs: any outputs of its shape, (n, ...).
    """
    if spec.kind == SEVERAL:
        parts = parts_of(outputs, [part.shape for part in spec.parts])
        return spec.model_copy(
            update={"parts": tuple(assumed(part, own) for part, own in zip(spec.parts, parts, strict=True))}
        )
    if spec.kind == "sequence" and spec.blank is None:
        return spec.model_copy(update={"blank": 0})
    if not spec.has_unit or spec.spread:
        return spec
    return spec.model_copy(update={"spread": (1.0,) * unit_count(spec, outputs.shape)})
