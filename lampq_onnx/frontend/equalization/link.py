"""`Link`: a place where the input channels of layers can be scaled. `links` describes the kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lampq_onnx.frontend.shared.model_layers import ModelLayer

Kind = Literal["norm", "linear", "multiply"]


@dataclass(frozen=True)
class Link:
    """A place where the input channels of layers can be scaled.

    Attributes:
        kind: "norm", "linear" or "multiply"; see `links`.
        readers: layers that read the channels.
        norm: the LayerNorm, for kind "norm".
        source: the layer whose rows ``start`` to ``start`` + channels produce the channels, for kind "linear".
        start: first of those rows.
        shift: whether a constant can be moved as well.
    """

    kind: Kind
    readers: tuple[ModelLayer, ...]
    norm: torch.nn.Module | None = None
    source: ModelLayer | None = None
    start: int = 0
    shift: bool = False

    @property
    def name(self) -> str:
        """Name of the first layer that reads the link."""
        return self.readers[0].name

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The modules that an equalization changes."""
        own = [layer.module for layer in self.readers]
        return (*own, *(m for m in (self.norm, self.source.module if self.source else None) if m is not None))

    @property
    def channels(self) -> int:
        """Number of input channels of each reader."""
        return int(self.readers[0].module.weight.shape[1])
