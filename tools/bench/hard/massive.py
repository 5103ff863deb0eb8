"""Give MLPs two huge hidden units that cancel in fc2: on the class token, or on a few patch tokens.

Rounding to a coarse grid loses the other inputs of fc2, and clipping destroys the cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lampq_onnx.errors import LampqError, UsageError
from tools.bench.hard.blocks import BlockInputs, blocks_of, watch

Tokens = Literal["class", "patch"]

SIGMAS = (267.0, 67.0)
"""Massive activation of each changed block in standard deviations of its fc2 input before: as in an augreg ViT-Ti."""
PUSH = 1.0
"""Norm of one massive channel's contribution over that of the residual stream of these tokens."""
RATIO = 4.0
"""First massive channel over the second; a power of two, so that the two cancel to the last bit."""
MARGIN = 16.0
"""Other tokens stay this far below zero, so that GELU of a quarter of it is still nothing."""
RIDGE = 1e-4
"""Of the least squares, relative to the mean square of the inputs."""
SINKS = 0.02
"""Share of the patch tokens that become sinks."""


@dataclass(frozen=True)
class MassiveBlock:
    """What was done to one block.

    Attributes:
        first, second: hidden channels that were given up; second is RATIO times smaller now.
        tokens: which tokens have the massive activation.
        height: mean activation of the first on these tokens.
        lowest: smallest pre-activation of the first on one of the class tokens that the direction was fitted to; 0 for
            patches, which pass gradually.
    """

    block: int
    first: int
    second: int
    tokens: Tokens
    height: float
    lowest: float


def make_massive(
    model: nn.Module,
    images: Sequence[torch.Tensor],
    seed: int,
    *,
    sigmas: Sequence[float] = SIGMAS,
    push: float = PUSH,
    tokens: Tokens = "class",
    first: int | None = None,
) -> list[MassiveBlock]:
    """Give consecutive blocks two massive activations that cancel in fc2. In place.

    The two hidden channels that contribute least make room; their mean contribution moves to the bias.

    Args:
        images: normalized batches (n, c, h, w).
        sigmas: the larger activation of each block, in standard deviations of its fc2 input.
        push: norm of what one of the two adds, over that of the residual stream of these tokens.
        tokens: which tokens have them.
        first: first of the blocks; None: the middle one.

    Raises:
        UsageError: there are more sigmas than blocks, or none.
        LampqError: the model has no class token or no GELU, or the token cannot be told from the patches.
    """
    blocks = blocks_of(model)
    if not 1 <= len(sigmas) <= len(blocks):
        raise UsageError(f"the model has {len(blocks)} blocks: {len(sigmas)} cannot be changed")
    if getattr(model, "cls_token", None) is None:
        raise LampqError(f"{type(model).__name__} has no class token to carry massive activations")
    random = torch.Generator().manual_seed(seed)
    first = min(len(blocks) // 2 if first is None else first, len(blocks) - len(sigmas))
    return [
        _make_massive(model, index, images, sigma, push, tokens, random)
        for index, sigma in enumerate(sigmas, start=first)
    ]


@torch.no_grad()
def _make_massive(
    model: nn.Module,
    index: int,
    images: Sequence[torch.Tensor],
    sigma: float,
    push: float,
    tokens: Tokens,
    random: torch.Generator,
) -> MassiveBlock:
    block = blocks_of(model)[index]
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    if not isinstance(block.mlp.act, nn.GELU):
        raise LampqError(f"blocks.{index}.mlp.act is {type(block.mlp.act).__name__}: only GELU is linear when large")
    seen = watch(model, block, images)
    hidden = torch.cat(seen.hidden)

    pair = give_up(block.mlp, hidden, 2)
    height = sigma * hidden.std().item()
    gate = _class_gate if tokens == "class" else _patch_gate
    row, bias, norm, lowest = gate(seen, height, index)
    layer = torch.randn(fc2.out_features, generator=random).to(fc2.weight)
    layer_scale = getattr(block.ls2, "gamma", torch.ones_like(layer))
    column = push * norm / height * layer / layer.norm() / layer_scale
    for channel, part, weight in zip(pair, (1.0, 1 / RATIO), (1.0, -RATIO), strict=True):
        fc1.weight[channel] = row.to(fc1.weight) * part
        fc1.bias[channel] = fc1.bias.new_tensor(bias) * part
        fc2.weight[:, channel] = column * weight
    return MassiveBlock(index, *pair, tokens, height, lowest)


def give_up(mlp: nn.Module, hidden: torch.Tensor, count: int) -> list[int]:
    """The hidden channels that contribute least; their mean contribution moves to the bias of fc2."""
    importance = hidden.square().mean((0, 1)).sqrt() * mlp.fc2.weight.norm(dim=0)
    least = importance.argsort()[:count]
    mlp.fc2.bias.add_(mlp.fc2.weight[:, least] @ hidden.mean((0, 1))[least])
    return least.tolist()


Gate = tuple[torch.Tensor, float, float, float]
"""Row and bias of fc1 for the first channel, norm of the residual stream where it is large, lowest activation there."""


def _class_gate(seen: BlockInputs, height: float, index: int) -> Gate:
    """A channel of this height on class tokens, and far below zero on all others."""
    reads = torch.cat(seen.reads)
    direction, offset = class_direction(reads)
    found = reads.double() @ direction + offset
    on_class, on_patches = found[:, 0], found[:, 1:]
    gap = (on_class.mean() - on_patches.max()).item()
    slope = (height + MARGIN) / gap if gap > 0 else math.inf
    lowest = height - slope * (on_class.mean() - on_class.min()).item()
    if not lowest > 0:
        raise LampqError(
            f"blocks.{index}: no direction tells the class token from every patch",
            hint="give more images of what the model was trained on",
        )
    bias = slope * (offset - on_class.mean().item()) + height
    norm = torch.cat([part[:, 0] for part in seen.residual]).norm(dim=1).mean().item()
    return slope * direction, bias, norm, lowest


def _patch_gate(seen: BlockInputs, height: float, _: int) -> Gate:
    """A channel of this mean height on the patch tokens that lie farthest along their direction of most variance.

    The end of that direction is the one farther from class tokens.
    """
    reads, residual = torch.cat(seen.reads).double(), torch.cat(seen.residual)
    patches = reads[:, 1:].flatten(0, 1)
    centred = patches - patches.mean(0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    if (reads[:, 0] @ direction).mean() > patches.mean(0) @ direction:
        direction = -direction
    found = reads @ direction
    threshold = torch.quantile(found[:, 1:].flatten(), 1 - SINKS).item()
    sinks = found > threshold
    slope = height / (found[sinks].mean().item() - threshold)
    return slope * direction, -slope * threshold, residual[sinks].norm(dim=1).mean().item(), 0.0


def class_direction(reads: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Least squares for one on the class token and zero on the others, both weighing the same."""
    tokens = reads.shape[1]
    weights, offsets = directions(reads, torch.eye(tokens, 1, dtype=torch.double))
    return weights[:, 0], offsets[0].item()


def directions(reads: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares for one on some positions and zero on the others, both weighing the same.

    Args:
        reads: inputs of all tokens (n, tokens, width).
        wanted: zeros and ones (tokens, k), with as many ones in every column.

    Returns:
        Weights (width, k) and offsets (k,).
    """
    tokens, count = len(wanted), wanted[:, 0].sum().item()
    inputs = reads.double()
    inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], dim=2)
    grams = torch.einsum("ntc,ntd->tcd", inputs, inputs)
    sums = inputs.sum(0)
    weight = 1 / (tokens - count)
    every = weight * grams.sum(0)
    every += RIDGE * every.diagonal().mean() * torch.eye(len(every), dtype=every.dtype)
    solved = [
        torch.linalg.solve(every + (1 / count - weight) * torch.einsum("t,tcd->cd", own, grams), own @ sums / count)
        for own in wanted.T
    ]
    solution = torch.stack(solved, 1)
    return solution[:-1], solution[-1]
