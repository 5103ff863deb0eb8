"""A row of the table of families: a small model with random weights, and images of noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.shared.loaded import LoadedModel

SMALL_SCALE = 0.1
"""A constant vector below this is a LayerScale or another gate at its start, where a trained one is larger."""

GRID = 8
"""Side of the coarse noise that images are made of."""


@dataclass(frozen=True)
class Family:
    """One row of the table of families.

    Attributes:
        name: of the row.
        model: as timm knows it, or the name of a class of transformers.
        arguments: for timm's constructor, or settings of a configuration of transformers; they make the model smaller.
        refused: part of the reason for which the tool refuses this family; empty where it must not.
        config: name of the configuration's class, for a model of transformers.
        size: height and width of its images; None: what the model or its configuration says.
    """

    name: str
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    config: str = ""
    size: tuple[int, int] | None = None

    def build(self, seed: int) -> torch.nn.Module:
        """The model with random weights, in evaluation mode."""
        torch.manual_seed(seed)
        module: torch.nn.Module
        if self.config:
            import transformers

            module = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.arguments))
        else:
            module = timm.create_model(self.model, **dict(self.arguments))
        module.eval().requires_grad_(False)
        randomize(module, seed)
        return module

    def load(self, folder: Path, seed: int) -> LoadedModel:
        """Load the model as the tool does, from weights or a folder that are written to ``folder``.

        Raises:
            LampqError: the tool refuses the model.
        """
        module = self.build(seed)
        recipe = self.recipe(folder, module)
        return load_model(recipe.model, recipe.images)

    def recipe(self, folder: Path, module: torch.nn.Module) -> Recipe:
        """Write the model, and return a recipe that names it."""
        if not self.config:
            weights = folder / "weights.safetensors"
            save_file({key: value.contiguous().clone() for key, value in module.state_dict().items()}, weights)
            model = {"name": self.model, "checkpoint": str(weights), "model_args": dict(self.arguments)}
            return Recipe.build({}, {"model": model, "images": {"input_size": self.size} if self.size else {}})
        place = folder / "model"
        module.save_pretrained(place)
        images = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": self.size}
        return Recipe.build({}, {"model": {"name": str(place)}, "images": images})


@torch.no_grad()
def randomize(module: torch.nn.Module, seed: int) -> None:
    """Give all parameters and running statistics values of the sizes that training gives them. In place.

    timm starts with weights of 0.02, tokens and gates near zero: outputs would hardly depend on the image. Matrices
    get a variance that keeps that of their input, vectors scatter around what they are, batch norms see noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    for own in module.modules():
        matrix = isinstance(own, torch.nn.Linear | torch.nn.Conv2d)
        norm = isinstance(own, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.LayerNorm)
        for name, value in own.named_parameters(recurse=False):
            if not value.numel():
                continue
            if matrix and name == "weight":
                value.copy_(normal(value) * value[0].numel() ** -0.5)
            elif norm and name == "weight" and value.min() != value.max():
                # MobileViT of transformers starts with random ones; its many SiLUs halve the signal.
                value.copy_(1.3 * (1 + 0.1 * normal(value)))
            elif value.min() != value.max() or value.numel() == 1:
                value.copy_(0.2 * normal(value))
            elif (start := float(value.flatten()[0])) == 0:
                value.copy_(0.1 * normal(value))
            else:
                level = start if abs(start) >= SMALL_SCALE else 0.3
                value.copy_(level * (1 + 0.1 * normal(value)))
        if isinstance(own, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert own.running_mean is not None
            assert own.running_var is not None
            own.running_mean.copy_(0.1 * normal(own.running_mean))
            own.running_var.copy_(1 + 0.2 * normal(own.running_var).clamp(-3, 3))


def noise_images(count: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """float32 (count, c, h, w): coarse and fine noise of a contrast and color of its own for every image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], GRID, GRID, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
    noise = smooth + 0.5 * torch.randn(count, *shape, generator=generator)
    contrast = (0.5 * torch.randn(count, 1, 1, 1, generator=generator)).exp()
    return contrast * noise + torch.randn(count, shape[0], 1, 1, generator=generator)
