"""Copies the weights of a checkpoint into a model."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints.contents import Checkpoint, read_checkpoint
from lampq_onnx.frontend.models.checkpoints.places import Choice, Place, choose_place, find_places
from lampq_onnx.frontend.models.checkpoints.shapes import described_arguments

_log = logging.getLogger(__name__)

_SHOWN = 3
_SHARD = re.compile(r"-\d+-of-\d+\.")


def load_weights(module: torch.nn.Module, name: str, path: Path, key: str | None = None) -> None:
    """Copy a checkpoint's weights into a model; log a warning for weights that are left over, cast or chosen.

    Args:
        module: model that gets the weights.
        name: name of the model, for messages.
        path: see `read_checkpoint`.
        key: part of the checkpoint to use, if several parts fit.

    Raises:
        LampqError: the file cannot be read, its tensors do not fit, or several sets of them do.
    """
    whole = read_checkpoint(path)
    checkpoint = whole if key is None else whole.under(key)
    own = module.state_dict()
    choice = choose_place(module, checkpoint)
    if choice is None:
        raise _misfit(module, name, checkpoint)
    given = {k: checkpoint.tensors[n] for k, n in choice.place.names.items()}
    for k in own:
        problem = _unusable(own[k], given[k])
        if problem:
            raise LampqError(
                f"the tensor {choice.place.names[k]} of {path} {problem}",
                hint="save the float weights, as plain tensors",
            )
    module.load_state_dict(given, strict=True)
    _say_choice(path, module, checkpoint, choice)
    _say_casts(path, own, given)
    _say_unused(checkpoint, choice)


def _say_choice(path: Path, module: torch.nn.Module, checkpoint: Checkpoint, choice: Choice) -> None:
    for other in choice.others:
        _log.warning(
            "%s: the weights are those of %s, an average over training steps; those of %s are not used "
            "(--checkpoint-key chooses)",
            path, choice.place.shown, other.shown,
        )  # fmt: skip
    if choice.place.averaged:
        return
    own = module.state_dict()
    for place in find_places(module, checkpoint):
        if place.averaged and not place.fits(own) and 2 * len(place.names) > len(own):
            _log.warning(
                "%s: the weights are those of %s; the average over training steps in %s is incomplete: it has %d of "
                "the model's %d tensors",
                path, choice.place.shown, place.shown, len(place.names) - len(place.misshapen), len(own),
            )  # fmt: skip


def _say_casts(path: Path, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    casts = Counter(
        (_type(given[k]), _type(own[k])) for k in own if own[k].is_floating_point() and given[k].dtype != own[k].dtype
    )
    for (stored, used), count in casts.items():
        _log.warning("%s: %d tensors stored as %s are converted to %s", path, count, stored, used)


def _say_unused(checkpoint: Checkpoint, choice: Choice) -> None:
    known = set(choice.place.names.values())
    for other in choice.others:
        known |= set(other.names.values())
    unused = [name for name in checkpoint.tensors if name not in known]
    if unused:
        what = "1 tensor is" if len(unused) == 1 else f"{len(unused)} tensors are"
        _log.warning("%s: %s not used: %s", checkpoint.path, what, _few(unused))


def _few(names: Iterable[str]) -> str:
    """The first few names as text, taken from different parts of the model first."""
    names = list(names)
    parts: dict[str, str] = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:2]), name)
    shown = [*parts.values(), *(name for name in names if name not in parts.values())][:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _misfit(module: torch.nn.Module, name: str, checkpoint: Checkpoint) -> LampqError:
    """The error for a checkpoint of another model."""
    own = module.state_dict()
    places = find_places(module, checkpoint)
    place = places[0] if places else Place("", {}, (), tuple(checkpoint.tensors))
    missing = sorted(set(own) - set(place.names))
    inside = {n.removeprefix(place.prefix): t for n, t in checkpoint.tensors.items() if n.startswith(place.prefix)}
    reshaped = [
        f"{key} is {tuple(inside[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in sorted(place.misshapen)
    ]
    parts = [f"{len(missing)} missing ({', '.join(missing[:2])})"] if missing else []
    parts += [f"{len(place.foreign)} unknown ({', '.join(sorted(place.foreign)[:2])})"] if place.foreign else []
    parts += [f"{len(reshaped)} of other shape ({reshaped[0]})"] if reshaped else []
    hint = "name the architecture that the checkpoint was trained with"
    arguments = described_arguments(inside)
    if arguments:
        hint += f"; its shapes say: {arguments} (and num_heads, which shapes do not show)"
    if _SHARD.search(checkpoint.path.name):
        hint = "it is one of several files; give the .index.json beside it"
    where = f" (its tensors under {place.shown})" if place.prefix else ""
    return LampqError(
        f"the checkpoint {checkpoint.path} does not fit {name}{where}: tensors " + "; ".join(parts), hint=hint
    )


def _unusable(own: torch.Tensor, given: torch.Tensor) -> str:
    """Why a tensor cannot be used as a weight; empty if it can. Copying would convert it without a message."""
    if given.layout != torch.strided or given.is_meta or given.is_quantized:
        return "holds no plain numbers: it is sparse, quantized, or without data"
    if own.is_floating_point() != given.is_floating_point():
        return f"is of type {_type(given)}, but the model has {_type(own)}"
    if given.is_floating_point() and given.element_size() == 1:
        return f"is of type {_type(given)}, and is quantized already"
    return ""


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
