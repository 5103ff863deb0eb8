"""Chooses the class that loads a transformers model, and determines the task from the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lampq_onnx.artifacts.task import BOXES, CLASSIFICATION, LOGITS, TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.frontend.models.output_choice import AskedOutput, require_known, shown_task
from lampq_onnx.frontend.models.task_model import detection_task, named_tensors
from lampq_onnx.frontend.models.trial import INPUT_HINT, noise
from lampq_onnx.importer.class_names import names_of

SOFTMAX_DETECTORS = ("yolos", "detr", "table-transformer")
"""Model types whose scores end with "no object"; others use sigmoids (RT-DETR, Deformable DETR)."""

TRIAL_IMAGES = 2
"""Images that show which outputs belong to images: as many rows."""

COMPUTED = ("position_ids", "num_batches_tracked", "relative_position_index", "inv_freq")
"""Endings of tensor names that follow from the configuration or that nothing reads; files may lack them."""


def model_class(transformers: Any, name: str, config: Any) -> Any:
    """The class that the configuration names.

    Raises:
        LampqError: it names none, or one that this version of transformers does not have.
    """
    architectures = config.architectures or []
    if not architectures:
        raise LampqError(
            f"the config.json of {name} names no architecture, so the kind of its head is not known",
            hint="save the model with save_pretrained of its own class",
        )
    found = getattr(transformers, architectures[0], None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise LampqError(
            f"{name} is a {architectures[0]}, which transformers {transformers.__version__} does not have",
            hint="install the version that it was saved with, or export the model and give the .onnx file",
        )
    return found


def load_weights_of(kind: Any, name: str, place: str, *, local: bool) -> torch.nn.Module:
    """Load a model with all of its weights in float32.

    Raises:
        LampqError: the file lacks weights, which transformers would initialize at random.
    """
    # "eager" attention uses operators that every exporter and every converter pass supports.
    module, facts = kind.from_pretrained(
        place, local_files_only=local, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = [*facts.get("missing_keys", ()), *(key for key, *_ in facts.get("mismatched_keys", ()))]
    wrong = sorted(key for key in wrong if not key.endswith(COMPUTED))
    if wrong:
        raise LampqError(
            f"{name} lacks {len(wrong)} weights of a {kind.__name__}: {', '.join(wrong[:3])}; they would be random",
            hint="save the trained model with save_pretrained, or name the class that the weights belong to under "
            "architectures in its config.json",
        )
    found: torch.nn.Module = module
    return found


def task_of(
    module: torch.nn.Module,
    name: str,
    config: Any,
    preprocessing: Preprocessing,
    *,
    made_for: tuple[int, int] | None = None,
    asked: Sequence[AskedOutput] = (),
) -> TaskSpec:
    """Determine the task from the outputs for images.

    Heads with a teacher return the mean of two heads under the name logits. For other outputs see `shown_task`.

    Args:
        made_for: height and width that the configuration names.
        asked: the outputs to keep; without any, those that show a task.

    Raises:
        UsageError: the model has no output that was asked for.
        LampqError: the model does not take the images, or has no outputs that are numbers of each image.
    """
    outputs = _outputs(module, name, preprocessing, made_for)
    count = TRIAL_IMAGES
    shapes = {key: tuple(value.shape) for key, value in outputs.items() if _is_answer(value, count)}
    if asked:
        chosen = require_known(asked, list(shapes), f"{name}, a {type(module).__name__},")
        if chosen not in ((LOGITS,), (LOGITS, BOXES)):
            return TaskSpec(outputs=chosen)
    names = tuple(str(config.id2label[key]) for key in sorted(config.id2label or {}))
    logits = shapes.get(LOGITS, ())
    if BOXES in shapes and len(logits) == 3:
        return detection_task(config.model_type in SOFTMAX_DETECTORS, names)
    if len(logits) == 4:
        return TaskSpec(kind="segmentation", classes=names)
    if len(logits) == 2:
        if config.problem_type == "multi_label_classification":
            return TaskSpec(kind="multi-label", classes=names)
        if config.problem_type == "regression":
            return TaskSpec(kind="regression")
        classes = names_of(config.id2label or {})
        return TaskSpec(classes=classes) if len(classes) == logits[1] else CLASSIFICATION
    shown = shown_task(shapes)
    if shown is not None:
        return shown
    said = ", ".join(f"{key} {tuple(value.shape)}" for key, value in outputs.items()) or "nothing"
    raise LampqError(
        f"{name} is a {type(module).__name__}, none of whose outputs is a row of float numbers for each image: {said}",
        hint="export the part of the model that has such an output, and give the .onnx file",
    )


def _is_answer(value: torch.Tensor, count: int) -> bool:
    """Whether an output holds float numbers for each of ``count`` images."""
    return value.is_floating_point() and value.ndim > 1 and len(value) == count


@torch.no_grad()
def _outputs(
    module: torch.nn.Module, name: str, preprocessing: Preprocessing, made_for: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    images = noise(preprocessing, module, TRIAL_IMAGES)
    try:
        answer = module(images)
    except Exception as error:  # a model can raise anything
        if is_out_of_memory(error):
            raise
        if made_for is not None and made_for != preprocessing.size:
            sizes = ["x".join(map(str, size)) for size in (preprocessing.size, made_for)]
            raise LampqError(
                f"{name}: its image processor prepares images of {sizes[0]}, and its config.json is of a model for "
                f"{sizes[1]}, which does not take them",
                hint=f"write size and crop_size of {sizes[1]} into preprocessor_config.json; a key that is not there "
                "has the default of the processor's class",
            ) from error
        raise LampqError(
            f"{name} is a {type(module).__name__} that does not take images {tuple(images.shape)} alone: "
            f"{type(error).__name__}: {first_line(error)}",
            hint=INPUT_HINT,
        ) from error
    if not isinstance(answer, Mapping):
        raise LampqError(
            f"{name} returns a {type(answer).__name__}, not outputs with names",
            hint="save its config with return_dict=True",
        )
    return named_tensors(answer)
