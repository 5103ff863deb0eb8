"""Determines the task of a loaded model: from its outputs, or as requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.artifacts.task import BOXES, CLASSIFICATION, TaskName, TaskSpec
from lampq_onnx.data.source import Targets
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.tasks.guard import ERRORS, notices
from lampq_onnx.evaluation.tasks.labels import task_of_labels
from lampq_onnx.evaluation.tasks.spread import output_spread
from lampq_onnx.frontend.likelihoods import likelihood_for
from lampq_onnx.frontend.shared.batching import Images, device_of, logits_of
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.measures.error_meter import Outputs

TaskChoice = Literal["auto"] | TaskName
Labels = Callable[[], Targets | None]


class NamedOutputs(torch.nn.Module):
    """Wraps a model that returns named outputs as one that returns a single tensor.

    Args:
        model: takes float32 (n, c, h, w) as its first argument and returns a mapping or an object with attributes.
        outputs: names of the outputs to keep, joined along their last axis.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._outputs = outputs
        self._apart = False

    @property
    def has_queries(self) -> bool:
        """Whether the rows of the outputs are queries of a detector."""
        return BOXES in self._outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the outputs (n, ...) joined, or as a tuple inside `apart`."""
        answer: Any = self.model(images)
        parts = tuple(getattr(answer, name) for name in self._outputs)
        if len(parts) == 1:
            only: torch.Tensor = parts[0]
            return only
        return parts if self._apart else torch.cat(parts, -1)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Return the outputs separately inside the block, as an ONNX file has them."""
        self._apart = True
        try:
            yield
        finally:
            self._apart = False


@contextmanager
def outputs_apart(module: torch.nn.Module) -> Iterator[None]:
    """Apply `NamedOutputs.apart` if the module is a `NamedOutputs`."""
    if isinstance(module, NamedOutputs):
        with module.apart():
            yield
    else:
        yield


def with_task(loaded: LoadedModel, asked: TaskChoice, labels: Labels = lambda: None) -> LoadedModel:
    """The model with the requested task, or with the task that its outputs and labels show.

    Args:
        loaded: the model.
        asked: a task, or "auto".
        labels: returns the labels of the run's images as numbers (n, ...), or None; only called if they decide.

    Raises:
        UsageError: the outputs do not fit the requested task, the task cannot be determined, or the task's loss does
            not change with the outputs.
    """
    outputs = generated_outputs(loaded)
    possible = _possible(loaded, outputs)
    kind = _told(loaded, outputs, possible, labels) if asked == "auto" else asked
    if kind not in possible:
        raise UsageError(
            f"the outputs of {loaded.identity.name}, of shape {tuple(outputs.shape)}, are not those of {kind}",
            hint=f"they can be those of: {', '.join(possible)}",
        )
    task = loaded.task if loaded.task.kind == kind else loaded.task.model_copy(update={"kind": kind})
    if not changes(task, outputs):
        others = [
            other for other in possible if changes(task.model_copy(update={"kind": other, "spread": ()}), outputs)
        ]
        raise UsageError(
            f"the loss of the task {kind} is constant for {loaded.identity.name}, whose outputs have the shape "
            f"{tuple(outputs.shape)}: it stays 0 when the outputs change by {100 * ERRORS[-1]:.0f} %, so every "
            "quantized model would look perfect",
            hint=f"say what the outputs are: --task {' or --task '.join(others)}"
            if others
            else "check the model's head: its answer is the same whatever its outputs are",
        )
    return with_likelihood(loaded, task)


def with_likelihood(loaded: LoadedModel, task: TaskSpec) -> LoadedModel:
    """The model with a task, and its module with the task's likelihood."""
    if task.kind != CLASSIFICATION.kind:
        loaded.module.likelihood = likelihood_for(task)  # type: ignore[assignment]
    return replace(loaded, task=task)


def with_spread(loaded: LoadedModel, images: Images) -> LoadedModel:
    """The model with the spread of its outputs over calibration images, if its task measures errors in multiples of it.

    Raises:
        LampqError: an output is the same on all images.
    """
    if not loaded.task.has_unit:
        return loaded
    spread = output_spread(logits_of(loaded.module, images).numpy())
    return with_likelihood(loaded, loaded.task.model_copy(update={"spread": spread}))


@torch.no_grad()
def generated_outputs(loaded: LoadedModel) -> torch.Tensor:
    """The model's answer (1, ...) to seeded noise, on the CPU."""
    size = loaded.preprocessing.size
    noise = torch.randn(1, loaded.preprocessing.channels, *size, generator=torch.Generator().manual_seed(0))
    found: torch.Tensor = loaded.module(noise.to(device_of(loaded.module)))
    return found.float().cpu()


def answers_of(module: torch.nn.Module) -> Callable[[npt.NDArray[np.float32]], Outputs]:
    """The model as a function of images (n, c, h, w) to outputs (n, ...), both float32 arrays."""

    @torch.no_grad()
    def answer(images: npt.NDArray[np.float32]) -> Outputs:
        found: Outputs = module(torch.from_numpy(images).to(device_of(module))).float().cpu().numpy()
        return found

    return answer


def changes(task: TaskSpec, outputs: torch.Tensor) -> bool:
    """Whether the loss of a task changes when the outputs (n, ...) change."""
    likelihood = likelihood_for(task)

    def distance(other: Outputs, reference: Outputs) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = likelihood.distance(
            torch.from_numpy(other), torch.from_numpy(reference)
        ).numpy()
        return found

    return notices(distance, outputs.double().numpy())


def _possible(loaded: LoadedModel, outputs: torch.Tensor) -> tuple[TaskName, ...]:
    """Tasks that outputs of this shape can belong to, the likeliest first."""
    said, name = loaded.task.kind, loaded.identity.name
    if said == "detection":
        return ("detection",)
    found: tuple[TaskName, ...]
    if outputs.ndim == 4:
        found = ("segmentation", "dense-regression")
        if outputs.shape[1] == 1:
            found = ("dense-regression", "binary-segmentation", "segmentation")
    elif outputs.ndim == 3:
        found = ("dense-regression",)
    elif outputs.ndim == 2:
        found = ("classification", "multi-label", "embedding", "regression")
        if outputs.shape[1] == 1:
            found = ("binary", "regression", "multi-label", "classification", "embedding")
        if not loaded.identity.num_classes:
            said = "embedding"
    else:
        raise LampqError(
            f"{name} answers with the shape {tuple(outputs.shape)}, which no task has",
            hint="known are numbers (n, k), maps (n, channels, h, w) or (n, h, w), and detectors with queries",
        )
    if said not in found:
        return found
    return (said, *(kind for kind in found if kind != said))


def _told(loaded: LoadedModel, outputs: torch.Tensor, possible: tuple[TaskName, ...], labels: Labels) -> TaskName:
    """Determine the task from the model's own statement, the shape of its outputs and the labels.

    Raises:
        UsageError: they do not decide.
    """
    name = loaded.identity.name
    if outputs.ndim == 3 and loaded.task.kind not in possible and not _is_map(outputs, loaded.preprocessing.size):
        raise UsageError(
            f"{name} answers with the shape {tuple(outputs.shape)}, which no task has by itself",
            hint="if these are maps of numbers (n, h, w), such as depth: --task dense-regression",
        )
    if outputs.ndim != 2 or not loaded.identity.num_classes or loaded.task.kind != CLASSIFICATION.kind:
        return possible[0]
    count = outputs.shape[1]
    try:
        kind, why = task_of_labels(labels(), count)
    except LampqError:
        if count == 1:
            raise
        return possible[0]  # the shape decides; problems with the images are reported when they are opened
    if kind is None and count == 1:
        raise UsageError(
            f"{name} answers with one number for each image, and {why}",
            hint="say what it is: --task binary (a logit; labels 0 and 1) or --task regression (a real number)",
        )
    return kind or possible[0]


def _is_map(outputs: torch.Tensor, size: tuple[int, int]) -> bool:
    """Whether outputs (n, h, w) have the aspect ratio of the images and are not larger."""
    height, width = outputs.shape[1:]
    return height * size[1] == width * size[0] and height <= size[0]


def detection_task(background: bool, classes: tuple[str, ...] = ()) -> TaskSpec:
    """The task of a detector with the outputs logits and pred_boxes."""
    return TaskSpec(kind="detection", outputs=("logits", "pred_boxes"), background=background, classes=classes)
