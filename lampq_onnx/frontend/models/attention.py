"""Brings attention into the forms that all stages expect: separate layers, and calls that torch's exporter accepts."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DIMENSIONS = 4
"""Number of dimensions of attention in the exporter: (images, heads, tokens, channels)."""


class FourDimensionalAttention(TorchFunctionMode):
    """Inside the block, attention with another number of dimensions is computed with four.

    Twins has five dimensions, (images, windows, heads, tokens, channels); SAM has three, (images and heads, tokens,
    channels). The leading dimensions of a mask are those of the queries, or are broadcast to them.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace calls of scaled_dot_product_attention; see `TorchFunctionMode`."""
        if function is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **keywords: Any,
) -> torch.Tensor:
    keywords |= {"dropout_p": dropout_p, "is_causal": is_causal}
    compute = torch.nn.functional.scaled_dot_product_attention
    if query.ndim == DIMENSIONS:
        return compute(query, key, value, attn_mask, **keywords)
    # With grouped heads the third dimension from the end counts heads; queries and keys differ in it.
    kept = 3 if keywords.get("enable_gqa") and query.ndim >= 3 else 2
    first = torch.broadcast_shapes(*(part.shape[:-kept] for part in (query, key, value)))  # type: ignore[no-untyped-call]
    parts = [_four(part.expand(*first, *part.shape[-kept:]), grouped=kept == 3) for part in (query, key, value)]
    heads = query.shape[-3:-2]
    own = (*first, *heads) if kept == 3 else first
    mask = None if attn_mask is None else _mask(attn_mask, own, grouped=kept == 3)
    result = compute(parts[0], parts[1], parts[2], mask, **keywords)
    return result.reshape(*own, query.shape[-2], value.shape[-1])


def _four(values: torch.Tensor, *, grouped: bool) -> torch.Tensor:
    """The same numbers as (images, heads, rows, columns).

    ``grouped``: the third dimension from the end counts heads.
    """
    if values.ndim > DIMENSIONS:
        return values.flatten(0, values.ndim - DIMENSIONS)
    if values.ndim == DIMENSIONS - 1:
        return values.unsqueeze(0 if grouped else 1)
    return values[(None,) * (DIMENSIONS - values.ndim)]


def _mask(mask: torch.Tensor, first: tuple[int, ...], *, grouped: bool) -> torch.Tensor:
    """A mask for queries whose dimensions before tokens and channels are ``first``."""
    if mask.ndim <= 2:
        return mask
    return _four(mask.expand(*first, *mask.shape[-2:]), grouped=grouped)


class SeparateAttention(torch.nn.Module):
    """`torch.nn.MultiheadAttention` with a Linear for queries, keys, values and the output.

    That module multiplies by parts of one parameter, which belong to no layer, and reads the weight of its output layer
    without calling it.

    Args:
        other: the module whose weights are taken.
    """

    in_proj_bias = None  # torch.nn.TransformerEncoderLayer reads it to decide whether it may go past this module

    def __init__(self, other: torch.nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first = other.num_heads, other.batch_first
        weights: Any = (
            other.in_proj_weight.chunk(3)
            if other._qkv_same_embed_dim
            else (other.q_proj_weight, other.k_proj_weight, other.v_proj_weight)
        )
        biases: Any = (None,) * 3 if other.in_proj_bias is None else other.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(other.out_proj.weight, other.out_proj.bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 -- only a hint: the mask says it too
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the same as `torch.nn.MultiheadAttention`; see there."""
        parts: Any = (query, key, value)
        if not self.batch_first and query.ndim == 3:
            parts = tuple(part.transpose(0, 1) for part in parts)
        batched = query.ndim == 3
        parts = parts if batched else tuple(part[None] for part in parts)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self._heads(layer(part)) for layer, part in zip(layers, parts, strict=True))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if attn_mask is not None:
            mask = _added(attn_mask)
            scores = scores + (mask.reshape(-1, self.heads, *mask.shape[-2:]) if mask.ndim == 3 else mask)
        if key_padding_mask is not None:
            scores = scores + _added(key_padding_mask)[:, None, None, :]
        weights = scores.softmax(-1)
        found = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if not batched:
            found, weights = found[0], weights[0]
        elif not self.batch_first:
            found = found.transpose(0, 1)
        if not need_weights:
            return found, None
        return found, weights.mean(-3) if average_attn_weights else weights

    def _heads(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)


def separate(other: torch.nn.Module) -> SeparateAttention | None:
    """The same attention with separate layers; None for modules of other kinds, or with tokens of their own."""
    if type(other) is not torch.nn.MultiheadAttention or other.bias_k is not None or other.add_zero_attn:
        return None
    return SeparateAttention(other)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _added(mask: torch.Tensor) -> torch.Tensor:
    """What a mask adds to the scores: minus infinity where a bool mask is true."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, float("-inf"))
    return mask
