"""File names of model weights."""

from __future__ import annotations

from pathlib import PurePath

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

_PACKED = (".tar",)
"""Suffixes that training tools add to these, as in model.pth.tar."""


def names_checkpoint(text: str) -> bool:
    """Whether a text is the name of a weights file, existing or not, rather than of a model."""
    endings = [ending.lower() for ending in PurePath(text).suffixes]
    while endings and endings[-1] in _PACKED:
        endings.pop()
    return bool(endings) and endings[-1] in CHECKPOINT_SUFFIXES
