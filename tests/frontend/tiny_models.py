"""Small seeded Vision Transformers and images for the front end's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.data import Batch, Preprocessing
from lampq_onnx.frontend.shared.loaded import LoadedModel, weights_hash
from lampq_onnx.frontend.shared.model_layers import ModelLayer

SIZE = 16


def tiny_vit(seed: int = 0, **changes: object) -> torch.nn.Module:
    """timm's VisionTransformer: two blocks of width 16, four classes."""
    torch.manual_seed(seed)
    arguments: dict[str, object] = {
        "img_size": SIZE,
        "patch_size": 4,
        "num_classes": 4,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    }
    model = timm.create_model("vit_tiny_patch16_224", **(arguments | changes))
    # timm starts with weights of 0.02, which leaves logits that hardly depend on the image.
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.1)
    return model.eval().requires_grad_(False)


def loaded(model: torch.nn.Module, name: str = "tiny") -> LoadedModel:
    """The model as the front end takes it."""
    channels = model.patch_embed.proj.in_channels
    preprocessing = Preprocessing(
        size=(SIZE, SIZE),
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        channels=channels,
    )
    identity = ModelIdentity(name=name, weights_sha256=weights_hash(model), num_classes=model.num_classes)
    return LoadedModel(model, preprocessing, identity)


@dataclass(frozen=True)
class ArrayImages:
    """Normalized images in memory, (n, c, h, w) float32, with labels."""

    images: np.ndarray
    labels: np.ndarray | None
    made: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self.images), batch_size):
            labels = None if self.labels is None else self.labels[start : start + batch_size]
            yield Batch(self.images[start : start + batch_size], labels, start)

    def slice(self, start: int, stop: int) -> ArrayImages:
        labels = None if self.labels is None else self.labels[start:stop]
        return ArrayImages(self.images[start:stop], labels, self.made)


def images(count: int, seed: int = 0, classes: int = 4) -> ArrayImages:
    """Random images and labels."""
    random = np.random.default_rng(seed)
    pixels = random.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
    return ArrayImages(pixels, random.integers(0, classes, count))


def layers_of(model: torch.nn.Module) -> tuple[ModelLayer, ...]:
    """The layers that the export of a timm model finds, without the export."""
    kinds = {"qkv": "qkv", "attn.proj": "proj", "fc1": "fc1", "fc2": "fc2", "embed.proj": "patch_embed", "head": "head"}
    found = []
    for name, module in model.named_modules():
        kind = next((k for end, k in kinds.items() if name.endswith(end)), None)
        if kind is not None and isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            found.append(ModelLayer(name, kind, module, fixed=kind in ("patch_embed", "head")))
    return tuple(found)


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    """Those of `images` as a tensor."""
    return torch.from_numpy(images(count, seed).images)


def untouched(model: torch.nn.Module) -> bool:
    """Whether no module has a forward of its own or a hook."""
    return not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
