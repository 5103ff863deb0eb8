"""Turn scenes into tensors, and augment them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

import numpy as np
import torch

from tools.scenes import MOST_OBJECTS, SIZE, Scene, scene

TRAIN_SEED, VALIDATION_SEED = 0, 3
"""Series of scenes."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Targets:
    """Objects of a batch, padded.

    Attributes:
        boxes: float32 (n, t, 4), centre, width and height as shares of the image.
        classes: int64 (n, t), -1 where there is no object.
    """

    boxes: torch.Tensor
    classes: torch.Tensor


def draw(seed: int, count: int, workers: int) -> list[Scene]:
    """Scenes 0 to ``count`` of a series, drawn by several processes."""
    work = [(seed, index) for index in range(count)]
    if workers < 2:
        return [scene(*item) for item in work]
    # A fresh process would import all that training needs before it draws its first scene.
    with get_context("fork" if sys.platform == "linux" else "spawn").Pool(workers) as pool:
        return pool.starmap(scene, work, chunksize=64)


def to_tensors(scenes: list[Scene], device: torch.device) -> tuple[torch.Tensor, Targets]:
    images = torch.from_numpy(np.stack([each.image for each in scenes])).to(device)
    boxes = torch.full((len(scenes), MOST_OBJECTS, 4), 0.5)
    classes = torch.full((len(scenes), MOST_OBJECTS), -1)
    for i, each in enumerate(scenes):
        n = len(each.boxes)
        centred = np.concatenate([each.boxes[:, :2] + each.boxes[:, 2:] / 2, each.boxes[:, 2:]], 1) / SIZE
        boxes[i, :n] = torch.from_numpy(centred)
        classes[i, :n] = torch.from_numpy(each.classes)
    return images, Targets(boxes.to(device), classes.to(device))


def normalized(images: torch.Tensor) -> torch.Tensor:
    """float32 (n, 3, h, w) from uint8 (n, h, w, 3)."""
    mean, std = (_on(images.device, values)[:, None, None] for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


@cache
def _on(device: torch.device, values: tuple[float, ...]) -> torch.Tensor:
    """Constants on the device; a copy from the host cannot be part of a recorded graph."""
    return torch.tensor(values, device=device)


def augmented(images: torch.Tensor, targets: Targets, random: torch.Generator) -> tuple[torch.Tensor, Targets]:
    """The square's eight symmetries, and channels swapped or inverted; uint8 in and out."""
    count = len(images)

    def coin() -> torch.Tensor:
        return torch.rand(count, generator=random, device=images.device) < 0.5

    across, down, turned, inverted = (coin() for _ in range(4))
    cx, cy, w, h = targets.boxes.unbind(-1)
    images = torch.where(across[:, None, None, None], images.flip(2), images)
    cx = torch.where(across[:, None], 1 - cx, cx)
    images = torch.where(down[:, None, None, None], images.flip(1), images)
    cy = torch.where(down[:, None], 1 - cy, cy)
    images = torch.where(turned[:, None, None, None], images.transpose(1, 2), images)
    swap = turned[:, None]
    cx, cy, w, h = (torch.where(swap, a, b) for a, b in ((cy, cx), (cx, cy), (h, w), (w, h)))
    order = torch.rand(count, 3, generator=random, device=images.device).argsort(1)
    images = images.gather(3, order[:, None, None].expand_as(images))
    images = torch.where(inverted[:, None, None, None], 255 - images, images)
    return images, Targets(torch.stack([cx, cy, w, h], -1), targets.classes)


def batches(count: int, size: int, random: torch.Generator, device: torch.device) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(count, generator=random, device=device)
        yield from order[: count // size * size].split(size)
