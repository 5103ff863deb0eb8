"""What every detector has while it is trained: the network that is kept, and a head of the patches that is not."""

from __future__ import annotations

import torch
from torch import nn

from tools.scenes import CLASSES

PATCH = 8
"""Side of a patch in pixels; every detector here sees the scene as 16 x 16 patches."""

Answer = tuple[torch.Tensor, torch.Tensor]
"""Scores (n, queries, classes or classes + 1) and boxes (n, queries, 4)."""


class Learner(nn.Module):
    """A detector and what only its training needs.

    Called with images, it returns the answers of the last block first, then those of earlier blocks, and the patches'
    own answers (n, patches, classes + 5).

    Args:
        width: channels of the patches.

    Attributes:
        network: the model of transformers that is saved.
        background: True for scores whose last class is "no object", False for sigmoids.
    """

    network: nn.Module
    background: bool

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_head = nn.Linear(width, len(CLASSES) + 1 + 4)
