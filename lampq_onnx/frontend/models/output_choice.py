"""Chooses among the outputs of a model: those that were asked for, or those that show a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from lampq_onnx.artifacts.task import TaskName, TaskSpec
from lampq_onnx.disk.wording import joined
from lampq_onnx.errors import UsageError

DEPTHS = ("predicted_depth", "depth")
"""Outputs (n, h, w) or (n, 1, h, w) of depth models."""

EMBEDDINGS = ("image_embeds", "pooler_output")
"""Outputs (n, k) of encoders with one vector per image, the likeliest first."""

FEATURES = ("last_hidden_state", "image_embeddings", "feature_maps", "feature_maps.0", "heatmaps")
"""Outputs of encoders whose numbers another program reads, the likeliest first."""

Shapes = Mapping[str, tuple[int, ...]]
"""Output name -> its shape (n, ...)."""


@dataclass(frozen=True)
class AskedOutput:
    """One of the outputs that `--outputs` names.

    Attributes:
        name: name of the output.
        task: what it means; None: it shows that itself.
    """

    name: str
    task: TaskName | None


def asked_outputs(words: Sequence[str]) -> tuple[AskedOutput, ...]:
    """Read words such as ``logits`` and ``last_hidden_state=features``.

    Raises:
        UsageError: no name, an unknown task, or an output that is named twice.
    """
    found = []
    for word in words:
        name, sign, task = word.partition("=")
        known: tuple[TaskName, ...] = get_args(TaskName)
        if not name.strip() or (sign and task not in known):
            raise UsageError(
                f"--outputs takes NAME or NAME=TASK, not {word!r}", hint=f"tasks are {joined(sorted(known))}"
            )
        found.append(AskedOutput(name, cast(TaskName, task) if sign else None))
    names = [output.name for output in found]
    if len(set(names)) != len(names):
        raise UsageError(f"--outputs names one output twice: {', '.join(names)}", hint="name each of them once")
    return tuple(found)


def require_known(asked: Sequence[AskedOutput], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names of the outputs that were asked for.

    Args:
        asked: the outputs.
        names: all outputs of the model.
        where: the model, for the message.

    Raises:
        UsageError: the model has no such output.
    """
    for output in asked:
        if output.name not in names:
            there = ", ".join(names) or "only one, without a name"
            raise UsageError(
                f"--outputs: {where} has no output {output.name!r}; it has: {there}",
                hint="name one of these with --outputs",
            )
    return tuple(output.name for output in asked)


def shown_task(shapes: Shapes) -> TaskSpec | None:
    """Return the task that names and shapes of outputs show; features if they show no other one.

    Args:
        shapes: outputs that hold numbers for each image, in the order of the model.

    Returns:
        None if there is no such output.
    """
    vector = next((name for name in EMBEDDINGS if len(shapes.get(name, ())) == 2), None)
    if vector is not None:
        return TaskSpec(kind="embedding", outputs=(vector,))
    depth = next((name for name in DEPTHS if len(shapes.get(name, ())) in (3, 4)), None)
    if depth is not None:
        return TaskSpec(kind="dense-regression", outputs=(depth,))
    scores = [name for name, shape in shapes.items() if "logits" in name and len(shape) >= 2]
    named = [name for name in FEATURES if name in shapes][:1]
    chosen = scores or named or list(shapes)[:1]
    if not chosen:
        return None
    return TaskSpec(kind="features", outputs=tuple(chosen), fallback=True)
