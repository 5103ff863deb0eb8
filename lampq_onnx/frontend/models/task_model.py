"""Determines the task of a loaded model: from its outputs, or as requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.artifacts.task import BOXES, CLASSIFICATION, SEVERAL, TaskName, TaskSpec
from lampq_onnx.data.source import Targets
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.tasks.guard import ERRORS, notices
from lampq_onnx.evaluation.tasks.labels import task_of_labels
from lampq_onnx.evaluation.tasks.measured import measured, needs_measuring
from lampq_onnx.frontend.likelihoods import likelihood_for
from lampq_onnx.frontend.models.output_choice import AskedOutput
from lampq_onnx.frontend.shared.batching import Images, device_of, logits_of
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.outputs import Joining, join, outputs_apart
from lampq_onnx.measures.error_meter import Outputs

TaskChoice = Literal["auto"] | TaskName
Labels = Callable[[], Targets | None]


class NamedOutputs(Joining):
    """Wraps a model that returns named outputs as one that returns a single tensor.

    Args:
        model: takes float32 (n, c, h, w) as its first argument and returns a mapping, an object with attributes, or a
            tuple.
        outputs: names of the outputs to keep, see `named_tensors`; several are joined, see `join`.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._outputs = outputs

    @property
    def has_queries(self) -> bool:
        """Whether the rows of the outputs are queries of a detector."""
        return BOXES in self._outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the outputs (n, ...) joined, or as a tuple inside `outputs_apart`."""
        named = named_tensors(self.model(images))
        parts = tuple(named[name] for name in self._outputs)
        return join(parts) if self.joined or len(parts) == 1 else parts


def named_tensors(answer: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model's answer by name.

    A tensor in a tuple has the name of the tuple and its position, as in feature_maps.0. The parts of a tuple without a
    name are 0, 1 and so on.
    """
    if isinstance(answer, Mapping):
        items = [(str(key), value) for key, value in answer.items()]
    elif isinstance(answer, tuple | list):
        items = [(str(position), value) for position, value in enumerate(answer)]
    else:
        items = list(vars(answer).items()) if hasattr(answer, "__dict__") else []
    found: dict[str, torch.Tensor] = {}
    for name, value in items:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, tuple | list):
            found |= {f"{name}.{own}": part for own, part in named_tensors(value).items()}
    return found


def with_task(
    loaded: LoadedModel,
    asked: TaskChoice,
    labels: Labels = lambda: None,
    outputs: Sequence[AskedOutput] = (),
) -> LoadedModel:
    """The model with the requested task, or with the task that its outputs and labels show.

    Args:
        loaded: the model.
        asked: a task, or "auto".
        labels: returns the labels of the run's images as numbers (n, ...), or None; only called if they decide.
        outputs: tasks of single outputs; the model has these outputs in this order.

    Raises:
        UsageError: the outputs do not fit the requested task, the task cannot be determined, or the task's loss does
            not change with the outputs.
    """
    if len(outputs) == 1:
        asked = outputs[0].task or asked
    if len(loaded.task.outputs) > 1 and loaded.task.kind != "detection":
        return with_likelihood(loaded, _several(loaded, asked, outputs))
    return with_likelihood(loaded, _task_of(loaded, loaded.task, generated_outputs(loaded), asked, labels))


def _several(loaded: LoadedModel, asked: TaskChoice, outputs: Sequence[AskedOutput]) -> TaskSpec:
    """The task of a model with several outputs that are scored together."""
    with outputs_apart(loaded.module):
        found = _answer(loaded)
    wanted = {output.name: output.task for output in outputs}
    parts = []
    for name, values in zip(loaded.task.outputs, found, strict=True):
        choice = wanted.get(name) or asked
        stated = TaskSpec(kind="classification" if choice == "auto" else choice, outputs=(name,))
        if choice == "auto" and loaded.task.fallback:
            stated = stated.model_copy(update={"kind": "features"})
        shown = _task_of(loaded, stated, values, choice, lambda: None)
        parts.append(shown.model_copy(update={"shape": tuple(values.shape[1:])}))
    return TaskSpec(kind=SEVERAL, outputs=loaded.task.outputs, parts=tuple(parts), fallback=loaded.task.fallback)


def _task_of(
    loaded: LoadedModel, stated: TaskSpec, outputs: torch.Tensor, asked: TaskChoice, labels: Labels
) -> TaskSpec:
    """The task of one output (n, ...), where ``stated`` is what the model says of it.

    Raises:
        UsageError: see `with_task`.
    """
    possible = _possible(loaded, stated, outputs)
    kind, fallback = _told(loaded, stated, outputs, possible, labels) if asked == "auto" else (asked, False)
    if kind not in possible:
        raise UsageError(
            f"the outputs of {loaded.identity.name}, of shape {tuple(outputs.shape)}, are not those of {kind}",
            hint=f"they can be those of: {', '.join(possible)}",
        )
    task = stated if stated.kind == kind else stated.model_copy(update={"kind": kind})
    task = task.model_copy(update={"fallback": fallback or (stated.fallback and asked == "auto")})
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
    return task


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
    if not needs_measuring(loaded.task):
        return loaded
    return with_likelihood(loaded, measured(loaded.task, logits_of(loaded.module, images).numpy()))


def generated_outputs(loaded: LoadedModel) -> torch.Tensor:
    """The model's answer (1, ...) to seeded noise, on the CPU."""
    (found,) = _answer(loaded)
    return found


@torch.no_grad()
def _answer(loaded: LoadedModel) -> tuple[torch.Tensor, ...]:
    """The model's outputs (1, ...) for seeded noise, on the CPU: one, or several inside `outputs_apart`."""
    size = loaded.preprocessing.size
    noise = torch.randn(1, loaded.preprocessing.channels, *size, generator=torch.Generator().manual_seed(0))
    found: Any = loaded.module(noise.to(device_of(loaded.module)))
    return tuple(value.float().cpu() for value in (found if isinstance(found, tuple) else (found,)))


def changes(task: TaskSpec, outputs: torch.Tensor) -> bool:
    """Whether the loss of a task changes when the outputs (n, ...) change."""
    likelihood = likelihood_for(task)

    def distance(other: Outputs, reference: Outputs) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = likelihood.distance(
            torch.from_numpy(other), torch.from_numpy(reference)
        ).numpy()
        return found

    return notices(distance, outputs.double().numpy())


def _possible(loaded: LoadedModel, stated: TaskSpec, outputs: torch.Tensor) -> tuple[TaskName, ...]:
    """Tasks that outputs of this shape can belong to, the likeliest first."""
    said = stated.kind
    if said == "detection":
        return ("detection",)
    found: tuple[TaskName, ...]
    if outputs.ndim == 4:
        found = ("segmentation", "dense-regression", "features")
        if outputs.shape[1] == 1:
            found = ("dense-regression", "binary-segmentation", "segmentation", "features")
    elif outputs.ndim == 3:
        found = ("features", "dense-regression", "sequence")
    elif outputs.ndim == 2:
        found = ("classification", "multi-label", "embedding", "regression", "features")
        if outputs.shape[1] == 1:
            found = ("binary", "regression", "multi-label", "classification", "embedding", "features")
        if not loaded.identity.num_classes and said == CLASSIFICATION.kind:
            said = "embedding"
    else:
        found = ("features",)
    if said not in found:
        return found
    return tuple(sorted(found, key=lambda kind: kind != said))


def _told(
    loaded: LoadedModel, stated: TaskSpec, outputs: torch.Tensor, possible: tuple[TaskName, ...], labels: Labels
) -> tuple[TaskName, bool]:
    """Determine the task from the model's own statement, the shape of its outputs and the labels.

    Returns:
        The task, and whether it is features because nothing shows another one.

    Raises:
        UsageError: they do not decide.
    """
    name = loaded.identity.name
    if outputs.ndim == 3 and stated.kind not in possible and _is_map(outputs, loaded.preprocessing.size):
        return "dense-regression", False
    if outputs.ndim not in (2, 4) and stated.kind not in possible:
        return "features", True
    if outputs.ndim != 2 or not loaded.identity.num_classes or stated.kind != CLASSIFICATION.kind:
        return possible[0], False
    count = outputs.shape[1]
    try:
        kind, why = task_of_labels(labels(), count)
    except LampqError:
        if count == 1:
            raise
        return possible[0], False  # the shape decides; problems with the images are reported when they are opened
    if kind is None and count == 1:
        raise UsageError(
            f"{name} answers with one number for each image, and {why}",
            hint="say what it is: --task binary (a logit; labels 0 and 1) or --task regression (a real number)",
        )
    return kind or possible[0], False


def _is_map(outputs: torch.Tensor, size: tuple[int, int]) -> bool:
    """Whether outputs (n, h, w) have the aspect ratio of the images and are not larger."""
    height, width = outputs.shape[1:]
    return height * size[1] == width * size[0] and height <= size[0]


def detection_task(background: bool, classes: tuple[str, ...] = ()) -> TaskSpec:
    """The task of a detector with the outputs logits and pred_boxes."""
    return TaskSpec(kind="detection", outputs=("logits", "pred_boxes"), background=background, classes=classes)
