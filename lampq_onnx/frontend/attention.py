"""Calls of attention in the form that torch's exporter takes."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DIMENSIONS = 4
"""(images, heads, tokens, channels), which the exporter's attention is limited to."""


class FourDimensionalAttention(TorchFunctionMode):
    """Inside the block, attention over windows (images, windows, heads, tokens, channels) joins the first dimensions.

    Twins calls it so. With a mask, which may have other dimensions, calls stay as they are.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`."""
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
    if query.ndim <= DIMENSIONS or attn_mask is not None:
        return compute(query, key, value, attn_mask, **keywords)
    extra = query.ndim - DIMENSIONS
    joined = compute(query.flatten(0, extra), key.flatten(0, extra), value.flatten(0, extra), **keywords)
    return joined.reshape(*query.shape[:-1], value.shape[-1])
