"""Creates Parameters that are not trained."""

from __future__ import annotations

import torch


def frozen(value: torch.Tensor) -> torch.nn.Parameter:
    """A Parameter without a gradient."""
    return torch.nn.Parameter(value, requires_grad=False)
