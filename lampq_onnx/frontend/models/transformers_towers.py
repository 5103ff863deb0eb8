"""The part of a transformers model that reads images alone: towers of two, and encoders without their masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

TOWERS = ("vision_model", "vision_tower", "vision_encoder", "visual", "image_encoder")
"""Attributes that hold the part of a model for images and other inputs that reads the images."""

PROJECTIONS = ("visual_projection",)
"""Attributes that hold the layer between a tower's vector of an image and the space that it shares with texts."""


class ImageTower(torch.nn.Module):
    """The part of a model for images and texts that reads the images.

    Args:
        tower: returns outputs with names.
        projection: makes `image_embeds` of `pooler_output`; None: there is none.
    """

    def __init__(self, tower: torch.nn.Module, projection: torch.nn.Module | None) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection

    def forward(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        """Return the outputs of the tower and, if there is a projection, `image_embeds`."""
        found = dict(self.tower(pixel_values).items())
        if self.projection is not None:
            found = {"image_embeds": self.projection(found["pooler_output"]), **found}
        return found


def image_part(module: torch.nn.Module, config: Any) -> torch.nn.Module:
    """The tower of a model for images and other inputs, or the model itself.

    Encoders that hide a part of the patches, as masked autoencoders do in training, see all of them in their order.
    """
    found = module
    if getattr(config, "vision_config", None) is not None:
        places = (module, *(getattr(module, name, None) for name in ("model", str(module.base_model_prefix))))
        holder = next((place for place in places if _part(place, TOWERS) is not None), None)
        tower, projection = _part(holder, TOWERS), _part(holder, PROJECTIONS)
        if tower is not None:
            found = tower if projection is None else ImageTower(tower, projection)
    for part in found.modules():
        if callable(getattr(part, "random_masking", None)):
            part.random_masking = _all_patches  # type: ignore[assignment]
    return found


def _part(holder: Any, names: Sequence[str]) -> torch.nn.Module | None:
    """The first of these attributes that is a module."""
    found = (getattr(holder, name, None) for name in names)
    return next((part for part in found if isinstance(part, torch.nn.Module)), None)


def _all_patches(sequence: torch.Tensor, noise: object = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # noqa: ARG001
    """All patches (n, patches, channels) in their order, with a mask that hides none."""
    count, patches = sequence.shape[:2]
    order = torch.arange(patches, device=sequence.device).expand(count, -1)
    return sequence, torch.zeros(count, patches, device=sequence.device), order
