"""How much the outputs of a module changed."""

from __future__ import annotations

from typing import Any

import torch

from lampq_onnx.measures.pairing import in_order_of

LEAST = 1e-30
"""Outputs that are smaller than this count as zero."""


def relative_change(module: torch.nn.Module | Any, found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative difference (L2) of the outputs of a module, with queries in the order of ``wanted``.

    Detectors may sort their queries by scores. Two scores that are nearly equal then change places through rounding
    alone, and all numbers of both queries would differ.
    """
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    if getattr(module, "has_queries", False) and found.ndim == 3 and found.shape == wanted.shape:
        found = torch.from_numpy(in_order_of(wanted.numpy(), found.numpy()))
    return float((found - wanted).norm() / wanted.norm().clamp_min(LEAST))
