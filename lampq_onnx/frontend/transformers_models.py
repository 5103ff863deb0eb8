"""Models of Hugging Face transformers: a folder that `save_pretrained` wrote, or a name on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.loading import LoadedModel, require_finite, weights_hash
from lampq_onnx.frontend.preparing import prepare
from lampq_onnx.frontend.task_model import NamedOutputs
from lampq_onnx.frontend.timm_sources import is_timm_folder
from lampq_onnx.frontend.transformers_heads import load_weights_of, model_class, task_of

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PREFIX = "transformers:"
"""Before a name on the hub, as in transformers:hustvl/yolos-tiny."""

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters."""


def is_transformers_name(name: str) -> bool:
    """Whether a model is named by a folder with a config.json that is not timm's, or with the prefix."""
    return name.startswith(PREFIX) or ((Path(name) / CONFIG).is_file() and not is_timm_folder(name))


def load_transformers(name: str, *, pretrained: bool) -> LoadedModel:
    """Load a model with its weights in float32, and its preprocessing.

    Args:
        name: folder, or `PREFIX` and a name on the hub.
        pretrained: let transformers download; without it, only what lies on this machine is read.

    Raises:
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
        raise UsageError(f"{name} is a name on the hub", hint="say --pretrained, or give a folder that holds the model")
    try:
        with _silent(transformers.utils.logging):
            return _loaded(transformers, name, place, local=local)
    except LampqError:
        raise
    except Exception as error:  # configurations, downloads and checkpoints fail in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise LampqError(f"transformers cannot load {name}: {reason}") from error


def _loaded(transformers: Any, name: str, place: str, *, local: bool) -> LoadedModel:
    config = transformers.AutoConfig.from_pretrained(place, local_files_only=local)
    module = load_weights_of(model_class(transformers, name, config), name, place, local=local)
    image_processor = _processor(place, local=local)
    module.eval().requires_grad_(False)
    require_finite(module, Path(place))
    size, channels = _size(config), int(getattr(_vision(config), "num_channels", 3))
    preprocessing = _preprocessing(name, image_processor, size, channels)
    task = task_of(module, name, config, preprocessing)
    wrapped = NamedOutputs(module, task.outputs).eval()
    digest = weights_hash(wrapped)
    prepare(wrapped, name, preprocessing)
    return LoadedModel(
        module=wrapped,
        preprocessing=preprocessing,
        identity=ModelIdentity(
            name=Path(place).name,
            weights_sha256=digest,
            num_classes=0 if task.kind == "embedding" else int(config.num_labels),
        ),
        task=task,
    )


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Without transformers' progress bars and remarks, which would run into our own."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _processor(place: str, *, local: bool) -> dict[str, Any]:
    """What preprocessor_config.json says; empty where there is none."""
    if local:
        file = Path(place) / PREPROCESSOR
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    from transformers import AutoImageProcessor  # noqa: PLC0415

    return dict(AutoImageProcessor.from_pretrained(place).to_dict())  # type: ignore[no-untyped-call]


def _vision(config: Any) -> Any:
    """The part about images, where a configuration has parts."""
    return getattr(config, "vision_config", None) or config


def _size(config: Any) -> tuple[int, int] | None:
    size = getattr(_vision(config), "image_size", None)
    if isinstance(size, int):
        return size, size
    return None if size is None else (int(size[0]), int(size[1]))


def _preprocessing(name: str, said: dict[str, Any], configured: tuple[int, int] | None, channels: int) -> Preprocessing:
    """Of a file with one input size.

    A size of both sides means that images are stretched to it. Detectors that keep the aspect ratio (shortest and
    longest edge) see whole images, letterboxed into the size that their positions were made for. Classifiers that crop
    keep their crop.
    """
    size, crop = said.get("size") or {}, said.get("crop_size")
    shape, mode, share = configured, "squash", 1.0
    if isinstance(size, dict) and "height" in size:
        shape = (int(size["height"]), int(size["width"]))
    elif isinstance(size, dict) and "longest_edge" in size:
        shape, mode = configured or (int(size["longest_edge"]),) * 2, "letterbox"
    elif isinstance(size, dict) and "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        shape = (int(crop["height"]), int(crop["width"])) if crop else configured or (edge, edge)
        mode, share = "center", min(1.0, min(shape) / edge)
    if shape is None:
        raise LampqError(f"{name} does not say how large its images are", hint=f"add a {PREPROCESSOR} with a size")
    resample = int(said.get("resample", 2))
    try:
        return Preprocessing.model_validate(
            {
                "size": shape,
                "crop_pct": share,
                "crop_mode": mode,
                "interpolation": _FILTERS[resample],
                "mean": tuple(said.get("image_mean") or (0.5,) * channels),
                "std": tuple(said.get("image_std") or (0.5,) * channels),
                "channels": channels,
            }
        )
    except (ValidationError, IndexError) as error:
        raise LampqError(f"the preprocessing of {name} is not supported: {error}") from error
