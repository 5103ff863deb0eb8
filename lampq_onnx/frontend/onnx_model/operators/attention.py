"""Attention and rotary embeddings as single operators (opset 23)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,  # noqa: ARG001  for an output that is not supported
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 1,  # noqa: ARG001
) -> torch.Tensor:
    if softcap:
        raise LampqError("Attention with softcap is not supported")
    packed = query.dim() == 3
    if packed:
        query = _heads(query, q_num_heads)
        key, value = _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    result = functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=bool(is_causal), scale=scale, enable_gqa=key.shape[1] != query.shape[1]
    )
    return result.transpose(1, 2).flatten(2) if packed else result


def _heads(x: torch.Tensor, count: int | None) -> torch.Tensor:
    return x.reshape(x.shape[0], x.shape[1], count or 1, -1).transpose(1, 2)


def _rotary_embedding(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> torch.Tensor:
    packed = x.dim() == 3
    if packed:
        x = _heads(x, num_heads)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    width = rotary_embedding_dim or x.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    else:
        first, second = turned.chunk(2, -1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    result = torch.cat([turned, rest], -1) if rest.shape[-1] else turned
    return result.transpose(1, 2).flatten(2) if packed else result


ATTENTION: Mapping[str, Any] = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
