"""The task of a loaded model: told by its outputs, or asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.likelihoods import likelihood_for
from lampq_onnx.frontend.loading import LoadedModel
from lampq_onnx.tasks.spec import CLASSIFICATION, TaskName, TaskSpec

TaskChoice = Literal["auto"] | TaskName


class NamedOutputs(torch.nn.Module):
    """A model that returns outputs by name, as one that returns a single tensor.

    Args:
        model: takes float32 (n, c, h, w) as its first argument; returns a mapping or an object with attributes.
        outputs: those that count, joined along their last axis.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._outputs = outputs
        self._apart = False

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs (n, ...) joined, or one by one inside `apart`."""
        answer: Any = self.model(images)
        parts = tuple(getattr(answer, name) for name in self._outputs)
        if len(parts) == 1:
            only: torch.Tensor = parts[0]
            return only
        return parts if self._apart else torch.cat(parts, -1)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Return the outputs one by one, as a file has them."""
        self._apart = True
        try:
            yield
        finally:
            self._apart = False


@contextmanager
def outputs_apart(module: torch.nn.Module) -> Iterator[None]:
    """`NamedOutputs.apart` where the module has it."""
    if isinstance(module, NamedOutputs):
        with module.apart():
            yield
    else:
        yield


def with_task(loaded: LoadedModel, asked: TaskChoice) -> LoadedModel:
    """The model with the task that was asked for, or that its outputs tell.

    Raises:
        UsageError: the outputs are none of the task that was asked for.
    """
    size = loaded.preprocessing.size
    device = next(loaded.module.parameters()).device
    example = torch.zeros(1, loaded.preprocessing.channels, *size, device=device)
    with torch.no_grad():
        outputs = loaded.module(example)
    possible = _possible(loaded, outputs)
    kind: TaskName = possible[0] if asked == "auto" else asked
    if kind not in possible:
        raise UsageError(
            f"the outputs of {loaded.identity.name}, of shape {tuple(outputs.shape)}, are not those of {kind}",
            hint=f"they can be those of: {', '.join(possible)}",
        )
    task = loaded.task if loaded.task.kind == kind else loaded.task.model_copy(update={"kind": kind})
    if kind != CLASSIFICATION.kind:
        loaded.module.likelihood = likelihood_for(task)  # type: ignore[assignment]
    return replace(loaded, task=task)


def _possible(loaded: LoadedModel, outputs: torch.Tensor) -> tuple[TaskName, ...]:
    """Tasks that outputs of such a shape can belong to, the likeliest first."""
    if loaded.task.kind == "detection":
        return ("detection",)
    if outputs.ndim == 4:
        return ("segmentation",)
    if outputs.ndim != 2:
        raise LampqError(
            f"{loaded.identity.name} answers with the shape {tuple(outputs.shape)}, which no task has",
            hint="known are class scores and embeddings (n, k), maps (n, classes, h, w), and detectors with queries",
        )
    own = loaded.task.kind if loaded.identity.num_classes else "embedding"
    others: tuple[TaskName, ...] = ("classification", "multi-label", "embedding")
    return (own, *(kind for kind in others if kind != own))


def detection_task(background: bool, classes: tuple[str, ...] = ()) -> TaskSpec:
    """That of a detector with the outputs logits and pred_boxes."""
    return TaskSpec(kind="detection", outputs=("logits", "pred_boxes"), background=background, classes=classes)
