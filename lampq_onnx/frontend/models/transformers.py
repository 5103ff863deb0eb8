"""Loads models of Hugging Face transformers: from a folder written by `save_pretrained`, or by a name on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError, first_line, is_out_of_memory
from lampq_onnx.frontend.models.construction import built_arguments
from lampq_onnx.frontend.models.loading import timm_preprocessing
from lampq_onnx.frontend.models.output_choice import AskedOutput
from lampq_onnx.frontend.models.preparing import prepare
from lampq_onnx.frontend.models.processor_check import installed_processor, require_same_pixels
from lampq_onnx.frontend.models.task_model import NamedOutputs
from lampq_onnx.frontend.models.timm_sources import is_timm_folder
from lampq_onnx.frontend.models.transformers_heads import load_weights_of, model_class, task_of
from lampq_onnx.frontend.models.transformers_towers import image_part
from lampq_onnx.frontend.models.trial import require_fixed_patches, require_one_input
from lampq_onnx.frontend.shared.loaded import LoadedModel, require_finite, weights_hash
from lampq_onnx.importer.processors import (
    class_name,
    plain_preprocessing,
    preprocessing_of,
    read_processor_file,
    replace_settings,
)
from lampq_onnx.importer.processors.keys import UnsupportedKey

CONFIG = "config.json"
TIMM = "timm_wrapper"
"""Type of a transformers model that holds a timm model."""

PREFIX = "transformers:"
"""Prefix of a name on the hub, as in transformers:hustvl/yolos-tiny."""


def is_transformers_name(name: str) -> bool:
    """Whether a name has the prefix, or is a folder whose config.json is not timm's."""
    return name.startswith(PREFIX) or ((Path(name) / CONFIG).is_file() and not is_timm_folder(name))


def load_transformers(
    name: str, *, pretrained: bool, images: ImageOptions | None = None, outputs: Sequence[AskedOutput] = ()
) -> LoadedModel:
    """Load a model with its weights in float32, and its preprocessing.

    Args:
        name: folder, or `PREFIX` and a name on the hub.
        pretrained: let transformers download; otherwise only files of this machine are read.
        images: overrides of the preprocessing, which also fill in what the model does not specify.
        outputs: the outputs to keep; without any, those that show a task.

    Raises:
        UsageError: the model has no such output; it is on the hub and downloading was not allowed, or its normalization
            is unknown.
        LampqError: transformers is missing, the model cannot be loaded, or its kind or preprocessing is not supported.
    """
    try:
        import transformers  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise LampqError(
            f"{name} needs transformers, which is not installed", hint="pip install 'lampq-onnx[transformers]'"
        ) from error
    place = name.removeprefix(PREFIX)
    local = not name.startswith(PREFIX)
    if not local and not pretrained:
        raise UsageError(
            f"{name} is a name on the hub", hint="add --pretrained to download it, or give a folder that holds it"
        )
    try:
        with _silent(transformers.utils.logging):
            return _loaded(transformers, name, place, images or ImageOptions(), outputs, local=local)
    except LampqError:
        raise
    except Exception as error:  # configurations, downloads and checkpoints fail in many ways
        if is_out_of_memory(error):
            raise
        raise LampqError(f"transformers cannot load {name}: {first_line(error)}") from error


def _loaded(
    transformers: Any, name: str, place: str, images: ImageOptions, outputs: Sequence[AskedOutput], *, local: bool
) -> LoadedModel:
    config = transformers.AutoConfig.from_pretrained(place, local_files_only=local)
    module = load_weights_of(model_class(transformers, name, config), name, place, local=local)
    module = image_part(module, config).eval().requires_grad_(False)
    require_finite(module, Path(place))
    require_fixed_patches(module, name)
    require_one_input(module, name)
    preprocessing = _image_settings(name, place, config, module, images, local=local)
    task = task_of(module, name, config, preprocessing, made_for=_size(config), asked=outputs)
    wrapped = NamedOutputs(module, task.outputs).eval()
    digest = weights_hash(wrapped)
    prepare(wrapped, name, preprocessing)
    return LoadedModel(
        module=wrapped,
        preprocessing=preprocessing,
        identity=ModelIdentity(
            name=Path(place).name,
            weights_sha256=digest,
            num_classes=0 if task.kind in ("embedding", "features") else int(config.num_labels),
        ),
        task=task,
    )


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Turn off transformers' progress bars and messages, which would mix with our own."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _image_settings(
    name: str, place: str, config: Any, module: Any, images: ImageOptions, *, local: bool
) -> Preprocessing:
    """The preprocessing of the model's image processor, compared with that processor, or that of the options.

    Raises:
        UsageError: there is no processor, and --mean or --std is missing.
        LampqError: a key of the processor is not supported, or the processor prepares images differently.
    """
    if config.model_type == TIMM:
        arguments = getattr(config, "model_args", None) or built_arguments(module.timm_model)
        return timm_preprocessing(module.timm_model, arguments, size=images.input_size, name=name)
    size, channels = _size(config), int(getattr(_vision(config), "num_channels", 3))
    settings = read_processor_file(Path(place)) if local else None
    if local and settings is None:
        return plain_preprocessing(name, channels=channels, size=size, images=images)
    try:
        processor = installed_processor(place, local=local)
    except UnsupportedKey:
        if not replace_settings(images):
            raise
        return plain_preprocessing(name, channels=channels, size=size, images=images)
    own = dict(processor.to_dict())
    said, source = (own, name) if settings is None else (settings[0], str(settings[1]))
    # If the file names no class, transformers uses the class that belongs to the model.
    said = {"image_processor_type": own["image_processor_type"], **said} if not class_name(said) else said
    same = partial(require_same_pixels, processor, source)
    return _preprocessing(source, said, size, channels, images=images, installed=own, compare=same)


def _preprocessing(
    source: str, said: dict[str, Any], configured: tuple[int, int] | None, channels: int, **rest: Any
) -> Preprocessing:
    """The preprocessing that a processor's settings describe; for ``rest`` see `preprocessing_of`."""
    return preprocessing_of(said, source, channels=channels, configured=configured, **rest)


def _vision(config: Any) -> Any:
    """The part of a configuration about images, or the configuration itself if it has no parts."""
    return getattr(config, "vision_config", None) or config


def _size(config: Any) -> tuple[int, int] | None:
    """Height and width that a configuration names, or that of its backbone."""
    own = _vision(config)
    for part in (own, getattr(own, "backbone_config", None)):
        size = getattr(part, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None
