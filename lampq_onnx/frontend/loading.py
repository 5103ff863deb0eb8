"""A model with its weights and its preprocessing."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import timm
import torch
from pydantic import ValidationError
from timm.data.config import resolve_model_data_config

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.files import shortened
from lampq_onnx.frontend.digits import CHECKPOINT_NAME, digits_folder, load_config
from lampq_onnx.frontend.own_weights import require_weights
from lampq_onnx.frontend.preparing import prepare
from lampq_onnx.frontend.timm_sources import require_source, timm_source
from lampq_onnx.tasks.spec import CLASSIFICATION, TaskSpec

if TYPE_CHECKING:
    from lampq_onnx.frontend.onnx_model.source import OnnxSource

DIGITS = "digits"
"""Name of the embedded default."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_NESTED = ("state_dict", "model", "model_ema", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True)
class LoadedModel:
    """A float model in evaluation mode.

    Attributes:
        module: takes float32 (n, c, h, w), returns one tensor (n, ...), which the task says how to read; it has the
            task's likelihood as the attribute `likelihood`, unless it classifies.
        preprocessing: what the images go through before.
        identity: name, weights hash, number of classes.
        source: the graph that the module was built from, where it came as an ONNX file.
        task: what its outputs mean.
    """

    module: torch.nn.Module
    preprocessing: Preprocessing
    identity: ModelIdentity
    source: OnnxSource | None = None
    task: TaskSpec = CLASSIFICATION


def load_digits() -> LoadedModel:
    """The embedded default."""
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
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Create a timm model and load its weights.

    Args:
        name: as timm knows it: a plain name, ``hf-hub:`` and a name on the hub, or a folder that timm's save_for_hf
            wrote, with or without ``local-dir:`` before it.
        checkpoint: .safetensors, or a torch file, of which only tensors are read (weights_only).
        pretrained: let timm download its weights.
        model_args: passed on to timm, e.g. img_size or num_classes.

    Raises:
        UsageError: no weights were named, or both kinds.
        LampqError: unknown model, unreadable or unfitting checkpoint, failed download, or `rewrite` fails.
    """
    source = timm_source(name)
    if source is not None and require_source(source, pretrained=pretrained):
        # A folder brings its weights, unless others are named.
        pretrained = checkpoint is None
    if (checkpoint is None) == (not pretrained):
        raise UsageError(
            f"say where the weights of {name} come from: either --checkpoint FILE or --pretrained",
            hint="`lampq-onnx quantize digits --output out` runs without either",
        )
    if source is None and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise LampqError(
            f"timm {timm.__version__} knows no model {name!r}",
            hint=f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them",
        )
    try:
        module = timm.create_model(source or name, pretrained=pretrained, **dict(model_args or {}))
    except Exception as error:  # constructors and downloads fail in many ways
        what = "load the weights of" if pretrained else "create"
        raise LampqError(
            f"timm cannot {what} {name}: {_first_line(error)}",
            hint="give a file with --checkpoint instead" if pretrained else "check the --model-arg values",
        ) from error
    if checkpoint is not None:
        _load_weights(module, name, read_checkpoint(checkpoint), checkpoint)
    module.eval().requires_grad_(False)
    require_finite(module, checkpoint or Path(name))
    name = name if source is None else Path(source.partition(":")[2]).name
    identity = ModelIdentity(name=name, weights_sha256=weights_hash(module), num_classes=_classes(module))
    preprocessing = _preprocessing(module, model_args or {})
    prepare(module, name, preprocessing)
    return LoadedModel(module=module, preprocessing=preprocessing, identity=identity)


def load_module(
    module: torch.nn.Module, name: str, preprocessing: Preprocessing | None, model_args: Mapping[str, Any] | None = None
) -> LoadedModel:
    """A model that Python code brings; a copy is taken, which later stages may change.

    Args:
        preprocessing: None: what timm's configuration of the module says.

    Raises:
        LampqError: it has no such configuration, no weights, or weights that are not finite; see also `prepare`.
    """
    if preprocessing is None:
        if not hasattr(module, "pretrained_cfg"):
            raise LampqError(
                f"it is not known what the images of {name} go through",
                hint="say so: preprocessing=lampq_onnx.Preprocessing(size=(224, 224), ...)",
            )
        preprocessing = _preprocessing(module, model_args or {})
    require_weights(module, name)
    try:
        module = copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as error:  # modules hold anything
        raise LampqError(
            f"{name} cannot be copied: {_first_line(error)}",
            hint="give a module that copy.deepcopy takes: without tensors that have a gradient history as attributes",
        ) from error
    require_finite(module, Path(name))
    digest = weights_hash(module)
    answer = prepare(module, name, preprocessing)
    identity = ModelIdentity(name=name, weights_sha256=digest, num_classes=answer.shape[1])
    return LoadedModel(module=module, preprocessing=preprocessing, identity=identity)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name; code in it is never run.

    Raises:
        LampqError: missing, truncated, of another format, or holding no tensors.
    """
    if not path.is_file():
        raise LampqError(f"no such checkpoint: {shortened(path)}")
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise LampqError(f"{path} is no checkpoint: expected {', '.join(CHECKPOINT_SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle, safetensors and the operating system each raise their own kinds
        raise LampqError(
            f"the checkpoint {path} cannot be read ({_first_line(error)})",
            hint="the file is damaged, cut short, or holds more than tensors",
        ) from error
    for key in _NESTED:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict):
        raise LampqError(f"the checkpoint {path} holds a {type(data).__name__}, not tensors by name")
    tensors = {str(key): value for key, value in data.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise LampqError(f"the checkpoint {path} holds no tensors")
    return tensors


def weights_hash(module: torch.nn.Module) -> str:
    """sha256 over names, shapes and bytes of the state."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
    return digest.hexdigest()


def _load_weights(module: torch.nn.Module, name: str, state: dict[str, torch.Tensor], path: Path) -> None:
    own = module.state_dict()
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    reshaped = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in sorted(set(own) & set(state))
        if own[key].shape != state[key].shape
    ]
    for key in sorted(set(own) & set(state)):
        problem = _unusable(own[key], state[key])
        if problem:
            raise LampqError(f"the tensor {key} of {path} {problem}", hint="save the float weights, as plain tensors")
    if missing or extra or reshaped:
        parts = [f"{len(missing)} missing ({', '.join(missing[:2])})"] if missing else []
        parts += [f"{len(extra)} unknown ({', '.join(extra[:2])})"] if extra else []
        parts += [f"{len(reshaped)} of other shape ({reshaped[0]})"] if reshaped else []
        guess = guess_vit_arguments(state)
        hint = "name the architecture that the checkpoint was trained with"
        if guess:
            options = " ".join(f"--model-arg {key}={value}" for key, value in guess.items())
            hint += f"; its shapes say: {options} (and num_heads, which shapes do not show)"
        raise LampqError(f"the checkpoint {path} does not fit {name}: tensors " + "; ".join(parts), hint=hint)
    module.load_state_dict(state, strict=True)


def _unusable(own: torch.Tensor, given: torch.Tensor) -> str:
    """Why a tensor cannot stand for a weight; empty if it can. Copying would convert it without a word."""
    if given.layout != torch.strided or given.is_meta or given.is_quantized:
        return "holds no plain numbers: it is sparse, quantized, or without data"
    if own.is_floating_point() != given.is_floating_point():
        return f"is of type {str(given.dtype).removeprefix('torch.')}, where the model has {str(own.dtype)[6:]}"
    return ""


def guess_vit_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, int | float]:
    """timm VisionTransformer arguments that the shapes of a checkpoint tell; empty for other architectures."""
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    fc1, head = state.get("blocks.0.mlp.fc1.weight"), state.get("head.weight")
    if patch is None or position is None or fc1 is None or (patch.ndim, position.ndim, fc1.ndim) != (4, 3, 2):
        return {}
    width, side = int(patch.shape[0]), int(patch.shape[2])
    grid = int((position.shape[1] - (1 if "cls_token" in state else 0)) ** 0.5)
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    guess: dict[str, int | float] = {
        "img_size": grid * side,
        "patch_size": side,
        "in_chans": int(patch.shape[1]),
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": fc1.shape[0] / width,
    }
    if head is not None and head.ndim == 2:
        guess["num_classes"] = int(head.shape[0])
    return guess


def _classes(module: torch.nn.Module) -> int:
    """Of a model without a head: 0; it gives embeddings."""
    count = getattr(module, "num_classes", 0)
    return count if isinstance(count, int) else 0


def _preprocessing(module: torch.nn.Module, model_args: Mapping[str, Any]) -> Preprocessing:
    """What timm's configuration says, corrected by the constructor's arguments, which it does not know.

    An image size other than the configured one means that the weights are not the configured ones either: the crop of
    large photographs is then no guide, and the whole image is taken.
    """
    data = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    channels, height, width = data["input_size"]
    crop = data["crop_pct"]
    asked = model_args.get("img_size")
    if asked is not None and (asked, asked) != (height, width):
        height = width = asked
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
        raise LampqError(f"the preprocessing of this model is not supported: {where}: {problem['msg']}") from error


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number a channel; a model of one channel gets the mean of three, as timm's own grayscale weights do."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def require_finite(module: torch.nn.Module, source: Path) -> None:
    """Raise LampqError where a weight is NaN or infinite."""
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise LampqError(f"the tensor {key} of {source} holds NaN or infinity")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
