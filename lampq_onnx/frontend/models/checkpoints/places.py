"""Finds a model's weights within a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints.contents import Checkpoint

_DEEPEST_NAME = 64
"""Largest number of parts of a tensor's name; no model has longer names."""

_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged)\d*(?:[._]|$)", re.IGNORECASE)
"""Names of averages over training steps, which training tools validate with."""


@dataclass(frozen=True)
class Place:
    """A prefix under which a checkpoint has tensors with the model's names.

    Attributes:
        prefix: text before the model's own names, including the last dot.
        names: own name -> name in the checkpoint.
        misshapen: own names whose tensor has another shape in the checkpoint.
        foreign: names in the checkpoint that lie within parts of the model but do not exist there, because that model
            was built differently.
    """

    prefix: str
    names: Mapping[str, str]
    misshapen: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The prefix as text for people, and as --checkpoint-key accepts it."""
        return self.prefix.removesuffix(".") or "the outermost table"

    @property
    def averaged(self) -> bool:
        """Whether the prefix names an average over training steps."""
        return bool(_AVERAGED.search(self.prefix))

    def fits(self, own: Mapping[str, torch.Tensor]) -> bool:
        """Whether the place holds all weights of a model with the state ``own``."""
        return len(self.names) == len(own) and not self.misshapen and not self.foreign


@dataclass(frozen=True)
class Choice:
    """The choice among the places of a checkpoint.

    Attributes:
        place: the place whose weights are loaded.
        others: other places with weights that would fit as well.
    """

    place: Place
    others: tuple[Place, ...] = ()


def find_places(module: torch.nn.Module, checkpoint: Checkpoint) -> list[Place]:
    """Find every prefix with at least one of the model's names, the best one first."""
    own = module.state_dict()
    found: dict[str, dict[str, str]] = {}
    for name in checkpoint.tensors:
        parts = name.split(".")
        if len(parts) <= _DEEPEST_NAME:
            for i in range(len(parts)):
                rest = ".".join(parts[i:])
                if rest in own:
                    found.setdefault(name[: len(name) - len(rest)], {})[rest] = name
    places = [_place(module, own, checkpoint, prefix, names) for prefix, names in found.items()]
    return sorted(places, key=lambda place: (len(place.misshapen) - len(place.names), -len(place.names), place.prefix))


def choose_place(module: torch.nn.Module, checkpoint: Checkpoint) -> Choice | None:
    """Choose the place to load; None if the checkpoint holds no complete model of this kind.

    If there is one set of raw weights and one average over training steps, the average is used.

    Raises:
        LampqError: several sets of weights fit.
    """
    own = module.state_dict()
    fitting = [place for place in find_places(module, checkpoint) if place.fits(own)]
    if len(fitting) <= 1:
        return Choice(fitting[0]) if fitting else None
    averages = [place for place in fitting if place.averaged]
    raw = [place for place in fitting if not place.averaged]
    if len(averages) == len(raw) == 1:
        return Choice(averages[0], (raw[0],))
    keys = [place.shown for place in fitting]
    raise LampqError(
        f"the checkpoint {checkpoint.path} holds several sets of weights that fit: {', '.join(keys)}",
        hint=f"say which one is meant, e.g. --checkpoint-key {next(place.shown for place in fitting if place.prefix)}",
    )


def _place(
    module: torch.nn.Module,
    own: Mapping[str, torch.Tensor],
    checkpoint: Checkpoint,
    prefix: str,
    names: Mapping[str, str],
) -> Place:
    taken = set(names.values())
    rest = [name for name in checkpoint.tensors if name.startswith(prefix) and name not in taken]
    # Buffers that the model computes by itself; older versions stored them.
    derived = {name for name, _ in module.named_buffers()} - set(own)
    return Place(
        prefix=prefix,
        names=names,
        misshapen=tuple(key for key, name in names.items() if checkpoint.tensors[name].shape != own[key].shape),
        foreign=tuple(
            name
            for name in rest
            if name.removeprefix(prefix) not in derived and _within(module, name.removeprefix(prefix))
        ),
    )


def _within(module: torch.nn.Module, name: str) -> bool:
    """Whether a name lies in a part that the model has, or could have but was built without.

    A head does not count if the model was built without one on purpose.
    """
    first = name.split(".", maxsplit=1)[0]
    if getattr(module, "num_classes", None) == 0 and first in _classifiers(module):
        return False
    return any(first in kept for kept in (module._modules, module._parameters, module._buffers, vars(module)))


def _classifiers(module: torch.nn.Module) -> set[str]:
    config = getattr(module, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    return {part.split(".")[0] for part in ([named] if isinstance(named, str) else named)}
