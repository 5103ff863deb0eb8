"""Blocks of plain Vision Transformers, and what their layers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import nn

from lampq_onnx.errors import LampqError


@dataclass
class BlockInputs:
    """Statistics of a block from one forward pass over all images.

    Attributes:
        reads: fc1's inputs of all tokens, one tensor (n, tokens, width) a batch.
        residual: residual stream of all tokens before the MLP, in the same form.
        hidden: fc2's inputs of all tokens, in the same form.
    """

    reads: list[torch.Tensor] = field(default_factory=list)
    residual: list[torch.Tensor] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of a plain pre-norm ViT.

    Raises:
        LampqError: the model is not one.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise LampqError(
            f"{type(model).__name__} has no blocks", hint="stand-ins are made of timm's plain ViT and DeiT"
        )
    for index, block in enumerate(blocks):
        plain = type(block) is Block and type(block.mlp) is Mlp and isinstance(block.mlp.norm, nn.Identity)
        linear = plain and all(isinstance(r, nn.Linear) for r in (block.attn.qkv, block.mlp.fc1, block.mlp.fc2))
        norms = plain and all(isinstance(n, nn.LayerNorm) and n.elementwise_affine for n in (block.norm1, block.norm2))
        if not linear or not norms or any(part.bias is None for part in (block.mlp.fc1, block.mlp.fc2)):
            raise LampqError(
                f"blocks.{index} is no pre-norm block of LayerNorm, attn.qkv, LayerNorm, mlp.fc1 and mlp.fc2",
                hint="stand-ins are made of timm's plain ViT and DeiT",
            )
    return list(blocks)


def watch(model: nn.Module, block: Block, images: Sequence[torch.Tensor]) -> BlockInputs:
    """What the MLP of a block reads on the images."""
    seen = BlockInputs()
    hooks = [
        block.mlp.fc1.register_forward_pre_hook(lambda _, x: seen.reads.append(x[0])),
        block.mlp.fc2.register_forward_pre_hook(lambda _, x: seen.hidden.append(x[0])),
        block.norm2.register_forward_pre_hook(lambda _, x: seen.residual.append(x[0])),
    ]
    try:
        for batch in images:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def values_of(
    model: nn.Module, module: nn.Module, images: Sequence[torch.Tensor], *, after: bool = False
) -> torch.Tensor:
    """What a module reads on all images, or answers."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda _, x, y: seen.append(y if after else x[0]))
    try:
        for batch in images:
            model(batch)
    finally:
        hook.remove()
    return torch.cat(seen)
