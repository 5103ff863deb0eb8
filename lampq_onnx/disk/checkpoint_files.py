"""What files of weights are called."""

from __future__ import annotations

from pathlib import PurePath

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

_PACKED = (".tar",)
"""Endings that training tools add to one of these, as in model.pth.tar."""


def names_checkpoint(text: str) -> bool:
    """Whether a text is the name of a file of weights, there or not, and no name of a model."""
    endings = [ending.lower() for ending in PurePath(text).suffixes]
    while endings and endings[-1] in _PACKED:
        endings.pop()
    return bool(endings) and endings[-1] in CHECKPOINT_SUFFIXES
