"""A small model, and its weights as training tools would save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from tests.frontend.tiny_models import tiny_vit

NAME = "vit_tiny_patch16_224"
ARGS: dict[str, Any] = {
    "img_size": 16, "patch_size": 4, "num_classes": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
}  # fmt: skip


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(tiny_vit(seed).state_dict())


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def empty(**changes: Any) -> torch.nn.Module:
    """The model with weights of its own, which a checkpoint replaces."""
    torch.manual_seed(99)
    module: torch.nn.Module = timm.create_model(NAME, **(ARGS | changes))
    return module.eval()


def saved(folder: Path, content: object, name: str = "file.pth", **options: Any) -> Path:
    path = folder / name
    torch.save(content, path, **options)
    return path


def holds(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    """Whether a module's weights are those numbers, in float32."""
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key].float()) for key in own)
