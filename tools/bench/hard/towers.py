"""A plain ViT with a class token in the form of the towers that people deploy: CLIP, SigLIP, DINOv2.

clip:   LayerNorm before the first block, QuickGELU, no bias of the patches (it moves to the positions). The LayerNorm
        is fitted, and so the tower computes about what the model does: its accuracy is to be measured.
siglip: no class token but one register with its value, GELU by tanh, and pooling by attention with a learned query,
        which reads the register. The same answers, nearly.
dinov2: LayerScale, whose inverse goes to the layer before it. The same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import timm
import torch
from torch import nn

from lampq_onnx.errors import LampqError
from tools.bench.hard.blocks import blocks_of, values_of
from tools.bench.hard.massive import class_direction

Tower = Literal["clip", "siglip", "dinov2"]
ARGUMENTS: dict[Tower, dict[str, object]] = {
    "clip": {"pre_norm": True, "act_layer": "quick_gelu"},
    "siglip": {
        "class_token": False,
        "reg_tokens": 1,
        "global_pool": "map",
        "pool_include_prefix": True,
        "act_layer": "gelu_tanh",
    },
    "dinov2": {"init_values": 0.1},
}
"""Arguments of timm's constructor that give a Vision Transformer the form of each tower."""
CLASS_WEIGHT = 20.0
"""What the class token weighs in the fit of the first LayerNorm; a patch weighs 1."""
POOLED = 12.0
"""How far the register's logit lies above those of patches in siglip's pooling, on average."""
SCALES = (0.02, 0.5)
"""Of dinov2's LayerScale, log-uniform."""


@torch.no_grad()
def tower_of(
    name: str, arguments: dict[str, object], model: nn.Module, form: Tower, images: Sequence[torch.Tensor], seed: int
) -> nn.Module:
    """A tower made of the model.

    Args:
        name: timm's name of the model.
        arguments: of the model's constructor.
        images: normalized batches that it is fitted to.

    Raises:
        LampqError: the model is no plain ViT with one class token.
    """
    blocks_of(model)
    if getattr(model, "cls_token", None) is None or model.num_prefix_tokens != 1:
        raise LampqError(f"{name} has not one class token: towers are made of timm's plain ViT and DeiT")
    tower = timm.create_model(name, **{**arguments, **ARGUMENTS[form]}).eval()
    own = {key: value.clone() for key, value in model.state_dict().items()}
    if form == "clip":
        own["pos_embed"][:, 1:] += own.pop("patch_embed.proj.bias")
        own["norm_pre.weight"], own["norm_pre.bias"] = _first_norm(model, images)
    elif form == "siglip":
        own["reg_token"] = own.pop("cls_token")
        own |= _pooling(model, tower.attn_pool, images, seed)
    else:
        random = torch.Generator().manual_seed(seed)
        for index in range(len(model.blocks)):
            for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
                low, high = (torch.tensor(bound).log() for bound in SCALES)
                gamma = (low + (high - low) * torch.rand(len(own["norm.weight"]), generator=random)).exp()
                own[f"blocks.{index}.{scale}.gamma"] = gamma
                own[f"blocks.{index}.{layer}.weight"] /= gamma[:, None]
                own[f"blocks.{index}.{layer}.bias"] /= gamma
    tower.load_state_dict(own)
    return tower


def _first_norm(model: nn.Module, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a LayerNorm that changes the embedded tokens least, channel by channel."""
    tokens = values_of(model, model.norm_pre, images)
    normal = nn.functional.layer_norm(tokens, tokens.shape[-1:])
    weights = torch.ones(tokens.shape[:2])
    weights[:, 0] = CLASS_WEIGHT
    weights = (weights / weights.sum())[..., None]
    middle, wanted = (weights * normal).sum((0, 1)), (weights * tokens).sum((0, 1))
    slope = (weights * (normal - middle) * (tokens - wanted)).sum((0, 1)) / (weights * (normal - middle) ** 2).sum(
        (0, 1)
    )
    return slope, wanted - slope * middle


def _pooling(model: nn.Module, pool: nn.Module, images: Sequence[torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Pooling that picks the register: its keys lie along the direction that tells it from patches."""
    tokens = values_of(model, model.norm, images, after=True)
    width = tokens.shape[-1]
    size = width // pool.num_heads
    direction, _ = class_direction(tokens)
    found = tokens.double() @ direction
    direction = POOLED / (found[:, 0].mean() - found[:, 1:].mean()) * direction
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(width, generator=random)
    own = {key: value.clone() for key, value in pool.state_dict().items()}
    own["latent"] = torch.randn(1, 1, width, generator=random) * width**-0.5
    own["q.weight"] = torch.randn(width, width, generator=random) * width**-0.5
    own["q.bias"] = query - own["q.weight"] @ own["latent"][0, 0]
    rows = query.unflatten(0, (-1, size))
    keys = (rows / rows.square().sum(1, keepdim=True)).flatten() * size**0.5
    own["kv.weight"] = torch.cat([torch.outer(keys, direction.to(keys)), torch.eye(width)])
    own["kv.bias"] = torch.zeros(2 * width)
    own["proj.weight"], own["proj.bias"] = torch.eye(width), torch.zeros(width)
    own["mlp.fc2.weight"] = own["mlp.fc2.weight"] * 1e-2
    own["mlp.fc2.bias"] = torch.zeros(width)
    return {f"attn_pool.{key}": value for key, value in own.items()}
