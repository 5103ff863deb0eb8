"""The size from which on images are large: memory decides then how they are passed, and not time."""

from __future__ import annotations

LARGE_PIXELS = 16 * 224 * 224
"""Pixels above which an image is large: attention between all patches of 1024 x 1024 pixels holds gigabytes."""


def are_large(shape: tuple[int, ...]) -> bool:
    """Whether images of a shape (..., h, w) are large."""
    return shape[-1] * shape[-2] > LARGE_PIXELS
