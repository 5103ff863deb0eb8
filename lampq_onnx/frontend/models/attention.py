"""Brings calls of attention into the form that torch's exporter accepts."""

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
