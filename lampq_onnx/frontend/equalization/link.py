"""A place where the input channels of layers can be scaled; see `links` for the kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lampq_onnx.frontend.shared.units import Unit

Kind = Literal["norm", "linear", "multiply"]


@dataclass(frozen=True)
class Link:
    """A place where input channels can be scaled.

    Attributes:
        kind: see `links`.
        readers: layers that read the channels.
        norm: of kind norm.
        source: of kind linear: the layer whose rows ``start`` to ``start`` + channels produce them.
        shift: whether a constant can move as well.
    """

    kind: Kind
    readers: tuple[Unit, ...]
    norm: torch.nn.Module | None = None
    source: Unit | None = None
    start: int = 0
    shift: bool = False

    @property
    def name(self) -> str:
        """The first reader's."""
        return self.readers[0].name

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.readers[0].module.weight.shape[1])
