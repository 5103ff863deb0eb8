"""Random views of the calibration images: crops and mirror images.

Training against the float model's outputs needs no labels, so any view of an image is as good as the image itself.
Without views, tuning on 128 images overfits to them. Mixtures of two views make long training last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

SMALLEST_SIDE = 0.6
"""Smallest side of a crop, as a fraction of the image's side."""


class ImagePool:
    """Normalized images in memory, drawn at random.

    Args:
        batches: images float32 (n, c, h, w), batch by batch.
        seed: seed of all draws.
        smallest_side: smallest side of a crop, as a fraction of the image's side.
        mixed: share of the views that are mixed with another one, by at most a half.
    """

    def __init__(
        self,
        batches: Sequence[torch.Tensor],
        seed: int,
        *,
        smallest_side: float = SMALLEST_SIDE,
        mixed: float = 0.0,
    ) -> None:
        self._images = torch.cat(list(batches))
        self._smallest_side, self._mixed = smallest_side, mixed
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._images)

    def indices(self, count: int) -> torch.Tensor:
        """Draw positions of ``count`` images, with repetition; int64 (count,)."""
        return torch.randint(len(self._images), (count,), generator=self._generator)

    def views(self, count: int) -> torch.Tensor:
        """Draw random crops, resized to the images' size, half of them mirrored; float32 (count, c, h, w)."""
        images = self._images[self.indices(count).to(self._images.device)]
        smallest = self._smallest_side
        side = smallest + (1 - smallest) * torch.rand(count, generator=self._generator)
        places = (1 - side)[:, None] * (2 * torch.rand(count, 2, generator=self._generator) - 1)
        mirror = torch.where(torch.rand(count, generator=self._generator) < 0.5, -1.0, 1.0)
        frame = torch.zeros(count, 2, 3)
        frame[:, 0, 0], frame[:, 1, 1] = side * mirror, side
        frame[:, :, 2] = places
        grid = functional.affine_grid(frame.to(images.device), list(images.shape), align_corners=False)
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        seen = functional.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        views = torch.maximum(torch.minimum(seen, high), low)
        if self._mixed == 0:
            return views
        share = torch.rand(count, generator=self._generator) / 2
        share = torch.where(torch.rand(count, generator=self._generator) < self._mixed, share, 0.0)
        return views.lerp(views.roll(1, 0), share.to(views)[:, None, None, None])
