"""Make a few patch tokens sinks: massive in two channels of the residual stream, and attended to without a value.

In a block before the middle, a hidden unit becomes massive on the patches at a few places, which can be told from
the others best, and fc2 writes huge values to two channels of the residual stream there. They stay until the last
block. Every later LayerNorm makes such a token nearly the same vector, whatever the image. Later blocks give it keys
that draw a share of the attention in every head, and values near zero. What attention loses by that, its projection
gives back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lampq_onnx.errors import LampqError
from tools.bench.hard.blocks import blocks_of, values_of, watch
from tools.bench.hard.massive import MARGIN, SIGMAS, SINKS, directions, give_up

STRENGTH = 20.0
"""Norm of the residual stream of a sink over that of the other patches."""
SECOND = -0.5
"""Second massive channel over the first."""
DRAWN = 0.25
"""Share of the attention that sinks draw in each head, about."""
FARTHEST = 3.0
"""A token is a sink where its residual stream is so many times longer than the median."""


@dataclass(frozen=True)
class Sinks:
    """What was done.

    Attributes:
        block: whose MLP makes the sinks.
        channels: of the residual stream that are massive.
        height: mean value of the first there.
        unit: mean value of the hidden unit that makes it.
        share: of all patch tokens that are sinks.
        drawn: mean share of the attention that they draw in the blocks after.
    """

    block: int
    channels: tuple[int, int]
    height: float
    unit: float
    share: float
    drawn: float


@torch.no_grad()
def make_sinks(
    model: nn.Module, images: Sequence[torch.Tensor], seed: int, *, strength: float = STRENGTH, sigma: float = SIGMAS[0]
) -> Sinks:
    """Plant sinks in a plain ViT. In place.

    Args:
        images: normalized batches (n, c, h, w).
        seed: which of the least read channels of the residual stream become massive.
        strength: norm of the residual stream of a sink over that of the other patches.
        sigma: hidden unit that makes it, in standard deviations of its fc2 input.

    Raises:
        LampqError: the model is no plain ViT, has fewer than three blocks, or normalizes queries and keys.
    """
    blocks = blocks_of(model)
    if len(blocks) < 3:
        raise LampqError(f"the model has {len(blocks)} blocks: sinks need three")
    at = len(blocks) // 3
    block, prefix = blocks[at], model.num_prefix_tokens
    seen = watch(model, block, images)
    channels = _least_read(blocks[at + 1 :], seed)
    hidden = torch.cat(seen.hidden)
    unit = sigma * hidden.std().item()
    row, bias = _gate(torch.cat(seen.reads), unit, prefix, at)
    channel = give_up(block.mlp, hidden, 1)[0]
    norm = torch.cat(seen.residual)[:, prefix:].norm(dim=-1).mean().item()
    height = strength * norm / math.hypot(1, SECOND)
    block.mlp.fc1.weight[channel] = row.to(block.mlp.fc1.weight)
    block.mlp.fc1.bias[channel] = bias
    column = torch.zeros_like(block.mlp.fc2.weight[:, channel])
    for own, part in zip(channels, (1.0, SECOND), strict=True):
        column[own] = part * height / unit
    block.mlp.fc2.weight[:, channel] = column / getattr(block.ls2, "gamma", torch.ones_like(column))
    shares = [_draw(model, later, images, channels) for later in blocks[at + 1 :]]
    pool = getattr(model, "attn_pool", None)
    if pool is not None:
        reads, sinks = values_of(model, pool.kv, images), _sinks(values_of(model, model.norm, images))
        _stop_reading(pool.kv, reads[~sinks], channels)
    return Sinks(at, channels, height, unit, _share(model, blocks[-1], images, prefix), sum(shares) / len(shares))


def _gate(reads: torch.Tensor, height: float, prefix: int, index: int) -> tuple[torch.Tensor, float]:
    """Row and bias of fc1 for a unit of this mean height on a few places, and far below zero elsewhere."""
    tokens = reads.shape[1]
    count = max(1, round(SINKS * (tokens - prefix)))
    gaps = torch.stack([_gap(reads, own)[0] for own in torch.eye(tokens, dtype=torch.double)[prefix:]])
    wanted = torch.zeros(tokens, dtype=torch.double)
    wanted[prefix + gaps.argsort(descending=True)[:count]] = 1
    gap, direction, offset, middle = _gap(reads, wanted)
    if not gap > 0:
        raise LampqError(
            f"blocks.{index}: no direction tells {count} places from every other",
            hint="give more images of what the model was trained on",
        )
    slope = (height + MARGIN) / gap
    return slope * direction, (slope * (offset - middle) + height).item()


def _gap(reads: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """How far the mean of some places lies above all others along their direction; the direction, offset, that mean."""
    weights, offsets = directions(reads, wanted[:, None])
    found = reads.double() @ weights[:, 0] + offsets[0]
    on = found[:, wanted > 0]
    return on.mean() - found[:, wanted == 0].max(), weights[:, 0], offsets[0], on.mean()


def _least_read(blocks: Sequence[nn.Module], seed: int) -> tuple[int, int]:
    """Two of the eight channels that the later blocks read least."""
    read = sum(
        (reader.weight * norm.weight).norm(dim=0) / reader.weight.norm()
        for block in blocks
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1))
    )
    chosen = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:2]
    first, second = read.argsort()[chosen].tolist()
    return first, second


def _draw(model: nn.Module, block: nn.Module, images: Sequence[torch.Tensor], channels: tuple[int, int]) -> float:
    """Sinks get keys that draw attention, and values near zero; the share that they draw."""
    attention = block.attn
    if not all(isinstance(getattr(attention, name, nn.Identity()), nn.Identity) for name in ("q_norm", "k_norm")):
        raise LampqError("queries and keys are normalized: their lengths cannot be chosen")
    qkv, heads = attention.qkv, attention.num_heads
    reads, sinks = values_of(model, qkv, images), _sinks(values_of(model, block.norm1, images))
    usual = _stop_reading(qkv, reads[~sinks], channels)
    sink = reads[sinks].mean(0)
    far = sink[channels[0]] - usual[0]
    width = qkv.in_features
    answers = qkv(reads)
    queries, keys, _ = answers.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scale = (width // heads) ** -0.5
    logits = scale * queries @ keys.transpose(-1, -2)
    others = logits.masked_fill(sinks[:, None, None], -math.inf).logsumexp(-1).mean((0, 2))
    count = sinks.sum(1).double().mean().clamp(min=1).item()
    wanted = others + math.log(DRAWN / (1 - DRAWN) / count)
    usual_query = queries.mean((0, 2))
    now = qkv(sink).unflatten(-1, (3, heads, -1))
    missing = wanted / scale - (usual_query * now[1]).sum(-1)
    key = missing[:, None] * usual_query / usual_query.square().sum(-1, keepdim=True)
    change = torch.cat([torch.zeros(width), key.flatten(), -now[2].flatten()])
    qkv.weight[:, channels[0]] = change / far
    qkv.bias.sub_(qkv.weight[:, channels[0]] * usual[0])

    queries, keys, _ = qkv(reads).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    drawn = (scale * queries @ keys.transpose(-1, -2)).softmax(-1).mul(sinks[:, None, None]).sum(-1).mean((0, 2))
    attention.proj.weight.div_((1 - drawn).repeat_interleave(width // heads))
    return drawn.mean().item()


def _stop_reading(reader: nn.Linear, usual: torch.Tensor, channels: tuple[int, int]) -> torch.Tensor:
    """The channels' weights become zero, and their mean goes to the bias; the means."""
    means = usual[:, list(channels)].mean(0)
    reader.bias.add_(reader.weight[:, list(channels)] @ means)
    reader.weight[:, list(channels)] = 0
    return means


def _sinks(residual: torch.Tensor) -> torch.Tensor:
    """Which tokens (n, tokens) are sinks."""
    norms = residual.norm(dim=-1)
    return norms > FARTHEST * norms.median()


def _share(model: nn.Module, block: nn.Module, images: Sequence[torch.Tensor], prefix: int) -> float:
    return _sinks(values_of(model, block.norm1, images))[:, prefix:].double().mean().item()
