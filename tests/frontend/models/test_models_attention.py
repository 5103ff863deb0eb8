"""Attention of any number of dimensions is computed with four, and stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lampq_onnx.frontend.models.attention import FourDimensionalAttention

CASES = {
    "three": ((6, 5, 8), (6, 7, 8), None, {}),
    "three, bias of all": ((6, 5, 8), (6, 7, 8), (6, 5, 7), {}),
    "three, one bias": ((6, 5, 8), (6, 7, 8), (1, 5, 7), {"scale": 0.5}),
    "three, plain bias": ((6, 5, 8), (6, 7, 8), (5, 7), {}),
    "three, causal": ((6, 7, 8), (6, 7, 8), None, {"is_causal": True}),
    "two": ((5, 8), (7, 8), (5, 7), {}),
    "five": ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8), None, {}),
    "five, bias of windows": ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8), (3, 1, 5, 7), {}),
    "five, bias of heads": ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8), (2, 1, 4, 5, 7), {}),
    "five, groups of heads": ((2, 3, 4, 5, 8), (2, 3, 2, 7, 8), (2, 3, 1, 5, 7), {"enable_gqa": True}),
    "three, groups of heads": ((4, 5, 8), (2, 7, 8), None, {"enable_gqa": True}),
    "six": ((2, 2, 3, 4, 5, 8), (2, 2, 3, 4, 7, 8), (5, 7), {"dropout_p": 0.0}),
    "four": ((2, 4, 5, 8), (2, 4, 7, 8), (2, 1, 5, 7), {}),
}


@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize("case", CASES)
def test_the_result_is_the_same(case: str, kind: str) -> None:
    query, key, mask, keywords = CASES[case]
    torch.manual_seed(0)
    q, k, v = torch.randn(query), torch.randn(key), torch.randn(*key[:-1], 6)
    m = None if mask is None else torch.randn(mask)
    if m is not None and kind == "bool":
        m = m > -1
        m[..., 0] = True
    group = query[-3] // key[-3] if "enable_gqa" in keywords else 1
    repeated = [part.repeat_interleave(group, -3) if group > 1 else part for part in (k, v)]
    scores = q @ repeated[0].mT * keywords.get("scale", 8**-0.5)
    if keywords.get("is_causal"):
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if m is not None:
        scores = scores.masked_fill(~m, -torch.inf) if kind == "bool" else scores + m
    wanted = scores.softmax(-1) @ repeated[1]
    with FourDimensionalAttention():
        found = scaled_dot_product_attention(q, k, v, attn_mask=m, **keywords)
    torch.testing.assert_close(found, wanted)
