"""Parameters of modules that are not trained."""

from __future__ import annotations

import torch


def frozen(value: torch.Tensor) -> torch.nn.Parameter:
    """A Parameter that asks for no gradient."""
    return torch.nn.Parameter(value, requires_grad=False)
