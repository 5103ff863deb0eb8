"""Loads timm models, PyTorch modules and the embedded model, with weights and preprocessing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from timm.data.config import resolve_model_data_config

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.artifacts.task import CLASSIFICATION, TaskSpec
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.data import Preprocessing
from lampq_onnx.disk.wording import explain
from lampq_onnx.errors import LampqError, UsageError, first_line, is_out_of_memory
from lampq_onnx.frontend.models.checkpoints.fitting import load_weights
from lampq_onnx.frontend.models.construction import built_arguments, create, image_sides
from lampq_onnx.frontend.models.digits import CHECKPOINT_NAME, digits_folder, load_config
from lampq_onnx.frontend.models.output_choice import AskedOutput, require_known
from lampq_onnx.frontend.models.own_weights import require_weights
from lampq_onnx.frontend.models.preparing import prepare
from lampq_onnx.frontend.models.task_model import NamedOutputs, named_tensors
from lampq_onnx.frontend.models.timm_sources import require_source, timm_source
from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.shared.loaded import LoadedModel, require_finite, weights_hash


def load_digits() -> LoadedModel:
    """Load the embedded default model."""
    config = load_config()
    model = load_timm(config.timm_model, checkpoint=digits_folder() / CHECKPOINT_NAME, model_args=config.timm_args)
    return LoadedModel(
        module=model.module,
        preprocessing=Preprocessing.model_validate(config.preprocessing.model_dump()),
        identity=model.identity.model_copy(update={"name": DIGITS}),
    )


def load_timm(
    name: str,
    *,
    checkpoint: Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """Create a timm model and load its weights.

    Args:
        name: a plain name of timm, ``hf-hub:`` and a name on the hub, or a folder that timm's save_for_hf wrote, with
            or without ``local-dir:`` before it.
        checkpoint: a safetensors file or a file of torch.save; only tensors are read from it.
        checkpoint_key: part of the checkpoint to use, e.g. ``teacher``; None uses the only part that fits.
        pretrained: let timm download the weights.
        model_args: passed on to timm, e.g. img_size or num_classes.
        size: height and width of its images, for models that take any; None: those in timm's configuration.

    Raises:
        UsageError: no weights were named, or both kinds.
        LampqError: the model is unknown, the checkpoint is unreadable or does not fit, the download failed, or
            `rewrite` failed.
    """
    source = timm_source(name)
    if source is not None and require_source(source, pretrained=pretrained):
        # A folder contains its weights, unless a checkpoint is given.
        pretrained = checkpoint is None
    if (checkpoint is None) == (not pretrained):
        raise UsageError(
            f"say where the weights of {name} come from: either --checkpoint FILE or --pretrained",
            hint="`lampq-onnx quantize digits --output out` runs without either",
        )
    arguments = dict(model_args or {})
    if "img_size" in arguments:
        image_sides(arguments["img_size"])
    module = create(source or name, arguments, pretrained=pretrained)
    if checkpoint is not None:
        load_weights(module, name, checkpoint, checkpoint_key)
    module.eval().requires_grad_(False)
    require_finite(module, checkpoint or Path(name))
    name = name if source is None else Path(source.partition(":")[2]).name
    identity = ModelIdentity(name=name, weights_sha256=weights_hash(module), num_classes=_classes(module))
    preprocessing = timm_preprocessing(module, arguments, size=size, name=name)
    prepare(module, name, preprocessing)
    return LoadedModel(module=module, preprocessing=preprocessing, identity=identity)


def load_module(
    module: object,
    name: str,
    preprocessing: Preprocessing | None,
    model_args: Mapping[str, Any] | None = None,
    outputs: Sequence[AskedOutput] = (),
) -> LoadedModel:
    """Load a PyTorch module from Python code; later stages change a copy of it.

    Args:
        module: a torch.nn.Module; anything else is refused.
        name: its name, for messages and artifacts.
        preprocessing: how images become inputs; None uses timm's configuration of the module.
        model_args: arguments that it was built with; None uses those that the module stores.
        outputs: of a module that returns several tensors, those to keep; see `named_tensors` for their names.

    Raises:
        UsageError: it is no module, or it has no such output.
        LampqError: the preprocessing is unknown, or the module has no weights or weights that are not finite; see also
            `prepare`.
    """
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the model is {type(module).__name__}", hint="give a name, the path of a file, or a torch.nn.Module"
        )
    if preprocessing is None:
        if not hasattr(module, "pretrained_cfg"):
            raise LampqError(
                f"the preprocessing of the images of {name} is not known",
                hint="pass it: preprocessing=lampq_onnx.Preprocessing(size=(224, 224), ...)",
            )
        preprocessing = timm_preprocessing(module, model_args or built_arguments(module))
    require_weights(module, name)
    try:
        module = copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as error:  # modules can hold objects of any kind
        if is_out_of_memory(error):
            raise
        raise LampqError(
            f"{name} cannot be copied: {first_line(error)}",
            hint="give a module that copy.deepcopy takes: without tensors that have a gradient history as attributes",
        ) from error
    require_finite(module, Path(name))
    digest = weights_hash(module)
    task = CLASSIFICATION
    if outputs:
        with torch.no_grad():
            answered = named_tensors(module(noise(preprocessing, module)))
        task = TaskSpec(outputs=require_known(outputs, list(answered), name))
        module = NamedOutputs(module, task.outputs).eval()
    answer = prepare(module, name, preprocessing)
    identity = ModelIdentity(name=name, weights_sha256=digest, num_classes=answer.shape[1])
    return LoadedModel(module=module, preprocessing=preprocessing, identity=identity, task=task)


def require_sides(built: Mapping[str, Any], size: tuple[int, int], name: str) -> None:
    """Check that a timm model was not built for images of another size.

    Raises:
        UsageError: it was.
    """
    own = built.get("img_size", size)
    if own != size:
        raise UsageError(
            f"{name} is built for images of {own[0]}x{own[1]}, and --input-size is {size[0]}x{size[1]}",
            hint=f"build it for that size: --model-arg img_size={size[0]},{size[1]}",
        )


def _classes(module: torch.nn.Module) -> int:
    """Number of classes; 0 for a model without a head, which returns embeddings."""
    count = getattr(module, "num_classes", 0)
    return count if isinstance(count, int) else 0


def timm_preprocessing(
    module: torch.nn.Module,
    model_args: Mapping[str, Any],
    *,
    size: tuple[int, int] | None = None,
    name: str = "the model",
) -> Preprocessing:
    """The preprocessing in timm's configuration, with another size if the model takes it.

    Raises:
        UsageError: the model was built for another size.
        LampqError: the preprocessing is not supported.
    """
    found = _preprocessing(module, model_args)
    if size is None:
        return found
    require_sides(built_arguments(module), size, name)
    return found.model_copy(update={"size": size})


def _preprocessing(module: torch.nn.Module, model_args: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in timm's configuration, corrected by the constructor's arguments, which timm ignores there.

    If the image size differs from the configured one, the weights differ from the configured ones too. The crop for
    large photographs then no longer applies, and the whole image is used.
    """
    data = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    channels, height, width = data["input_size"]
    crop = data["crop_pct"]
    asked = model_args.get("img_size")
    if asked is not None and image_sides(asked) != (height, width):
        height, width = image_sides(asked)
        crop = 1.0
    channels = model_args.get("in_chans", channels)
    mean, std = (_per_channel(data[key], channels) for key in ("mean", "std"))
    try:
        return Preprocessing(
            size=(height, width),
            crop_pct=crop,
            crop_mode=data.get("crop_mode", "center"),
            interpolation=data["interpolation"],
            mean=mean,
            std=std,
            channels=channels,
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise LampqError(f"the preprocessing of this model is not supported: {where}: {explain([problem])}") from error


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number per channel; a model with one channel gets the mean of three, as timm's own grayscale weights do."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
