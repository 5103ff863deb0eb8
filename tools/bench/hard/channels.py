"""Make channels of different sizes: of LayerNorms, and inside attention heads. What the model computes stays."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from lampq_onnx.errors import LampqError
from tools.bench.hard.blocks import blocks_of

FACTORS = (4.0, 40.0)
"""Of the enlarged LayerNorm channels, log-uniform."""
SHARE = 0.1
"""Of a LayerNorm's channels that are enlarged."""
TAIL = 0.6
"""Scale of the logarithms of heavy-tailed factors, which have Student's t distribution."""
FREEDOM = 3
"""Its degrees of freedom."""
LARGEST = 64.0
"""Bound of heavy-tailed factors."""
CONDITION = 8.0
"""Largest over smallest singular value of the matrices that mix the channels of a head."""


@torch.no_grad()
def enlarge_channels(
    model: nn.Module, seed: int, *, share: float = SHARE, factors: tuple[float, float] = FACTORS
) -> None:
    """Multiply random LayerNorm channels in every block, and divide the weights that read them. In place.

    Raises:
        LampqError: the model is no plain ViT.
    """
    random = np.random.default_rng(seed)
    for block in blocks_of(model):
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            width = norm.weight.numel()
            chosen = random.choice(width, max(1, round(share * width)), replace=False)
            scale = np.ones(width)
            scale[chosen] = np.exp(random.uniform(*np.log(factors), len(chosen)))
            scale_channels(norm, reader, scale)


@torch.no_grad()
def spread_channels(model: nn.Module, seed: int, *, tail: float = TAIL) -> None:
    """Multiply all LayerNorm channels by heavy-tailed factors, and divide the weights that read them. In place.

    Args:
        tail: scale of the logarithms of the factors.

    Raises:
        LampqError: the model is no plain ViT.
    """
    random = np.random.default_rng(seed)
    for block in blocks_of(model):
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            factors = np.exp(tail * random.standard_t(FREEDOM, norm.weight.numel()))
            scale_channels(norm, reader, np.clip(factors, 1 / LARGEST, LARGEST))


def scale_channels(norm: nn.LayerNorm, reader: nn.Linear, factors: np.ndarray) -> None:
    """Multiply the channels of a LayerNorm by factors (width,), and divide the weights that read them. In place."""
    factor = torch.from_numpy(factors).to(norm.weight)
    norm.weight.mul_(factor)
    if norm.bias is not None:
        norm.bias.mul_(factor)
    reader.weight.div_(factor)


@torch.no_grad()
def mix_heads(model: nn.Module, seed: int, *, condition: float = CONDITION) -> None:
    """Mix the channels of each head: queries and keys by inverse matrices, values and the projection too. In place.

    Scaling single channels cannot undo this. A rounding error of one channel weighs up to ``condition`` times more than
    that of another, and channels are correlated.

    Args:
        condition: largest over smallest singular value of a matrix; the geometric mean of all is 1.

    Raises:
        LampqError: the model is no plain ViT, or normalizes queries and keys.
    """
    random = np.random.default_rng(seed)
    for index, block in enumerate(blocks_of(model)):
        attention = block.attn
        if not all(isinstance(getattr(attention, name, nn.Identity()), nn.Identity) for name in ("q_norm", "k_norm")):
            raise LampqError(f"blocks.{index}.attn normalizes queries and keys, whose channels cannot be mixed then")
        width = attention.proj.in_features
        size = width // attention.num_heads
        for head in range(attention.num_heads):
            own = slice(head * size, (head + 1) * size)
            queries, keys, values = (slice(part * width + own.start, part * width + own.stop) for part in range(3))
            matrix, inverse = _mixing(size, condition, random)
            for rows, factor in ((queries, matrix), (keys, inverse.T)):
                _multiply_rows(attention.qkv, rows, factor)
            matrix, inverse = _mixing(size, condition, random)
            _multiply_rows(attention.qkv, values, matrix)
            columns = attention.proj.weight[:, own]
            columns.copy_(columns.double() @ torch.from_numpy(inverse))


def _mixing(size: int, condition: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random matrix (size, size) with log-uniform singular values, and its inverse."""
    left, right = (np.linalg.qr(random.normal(size=(size, size)))[0] for _ in range(2))
    half = math.log(condition) / 2
    values = np.exp(random.permutation(np.linspace(-half, half, size)))
    return (left * values) @ right.T, (right / values) @ left.T


def _multiply_rows(layer: nn.Linear, rows: slice, matrix: np.ndarray) -> None:
    factor = torch.from_numpy(np.ascontiguousarray(matrix))
    layer.weight[rows] = (factor @ layer.weight[rows].double()).to(layer.weight)
    if layer.bias is not None:
        layer.bias[rows] = (factor @ layer.bias[rows].double()).to(layer.bias)
