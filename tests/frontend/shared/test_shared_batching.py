"""Batches of large images are cut, and those of ordinary ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.data import BatchedImages, Preprocessing
from lampq_onnx.frontend.shared.batching import BATCH, pass_images, tensors, unlabelled

CPU = torch.device("cpu")
REST = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}


def images_of(side: int, count: int) -> BatchedImages:
    pixels = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(count, 3, side, side)
    preprocessing = Preprocessing(size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3, channels=3, **REST)
    return BatchedImages(zip(pixels.split(4), torch.arange(count).split(4), strict=True), preprocessing)


@pytest.mark.parametrize(("side", "sizes"), [(1024, [1] * 6), (640, [3, 1, 2]), (224, [4, 2])])
def test_images_and_labels_stay_together_in_passes_of_few_pixels(side: int, sizes: list[int]) -> None:
    with images_of(side, 6) as images:
        found = list(tensors(images, CPU, batch_size=4))
        assert [len(batch) for batch, _ in found] == sizes
        assert [int(value) for batch, _ in found for value in batch[:, 0, 0, 0]] == list(range(6))
        labels = [own for _, own in found if own is not None]
        assert torch.cat(labels).tolist() == list(range(6))
        assert [len(batch) for batch, _ in unlabelled(images, CPU)] == [6]


def test_a_pass_has_at_least_one_image_and_at_most_what_was_asked() -> None:
    assert pass_images((9, 3, 4096, 4096), 9) == 1
    assert pass_images((9, 3, 32, 32), BATCH) == BATCH
    assert np.prod((pass_images((32, 3, 384, 384), 32), 384, 384)) <= 32 * 224 * 224
