"""KL image by image, and when a loss counts as lower."""

from __future__ import annotations

import math

import pytest
import torch

from lampq_onnx.frontend.losses import clearly_lower, image_kl, loss_of


def test_kl_of_each_image_by_hand() -> None:
    probabilities = [([0.5, 0.5], [0.25, 0.75]), ([0.9, 0.1], [0.9, 0.1]), ([0.2, 0.8], [0.6, 0.4])]
    p, q = (torch.tensor([pair[i] for pair in probabilities]).log() for i in (0, 1))
    expected = [sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in probabilities]
    found = image_kl(q + 3, p - 5)  # constants do not matter
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert loss_of(q, p, None, "kl") == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_lower_by_hand() -> None:
    losses, others = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.5, 5.0])
    # differences -1, -.5, -2: mean -7/6, deviation sqrt(7/12), error of the mean sqrt(7/36) = .441
    assert clearly_lower(losses, others)  # 1.167 > 2 * .441
    # relative to the sums -1/3, -1/9, -1/4: mean -.2315, deviation .1123, error of the mean .0648: 3.57 of them
    relative = torch.tensor([-1 / 3, -1 / 9, -1 / 4], dtype=torch.float64)
    most = float(-relative.mean() / (relative.std() / math.sqrt(3)))
    assert most == pytest.approx(3.57, abs=0.01)
    assert clearly_lower(losses, others, evidence=most - 1e-6)
    assert not clearly_lower(losses, others, evidence=most + 1e-6)
    assert not clearly_lower(others, losses)
    assert not clearly_lower(losses, losses)
    assert clearly_lower(losses - 1e-3, losses.double())  # the same for every image: no scatter at all


def test_a_single_image_is_taken_at_its_word() -> None:
    assert clearly_lower(torch.tensor([1.0]), torch.tensor([1.001]))
    assert not clearly_lower(torch.tensor([1.0]), torch.tensor([1.0]))
    assert not clearly_lower(torch.tensor([1.001]), torch.tensor([1.0]))


def test_noise_is_no_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(2, 1000, 32, generator=generator)
    share = sum(clearly_lower(a, b) for a, b in zip(*pairs, strict=True)) / 1000
    assert share < 0.05  # 2.3 % lie beyond two errors on one side
    assert sum(bool(a.mean() < b.mean()) for a, b in zip(*pairs, strict=True)) > 400
    shared = torch.rand(32, generator=generator) * 10  # hard and easy images are in both
    assert clearly_lower(shared + 0.1 * pairs[0, 0], shared + 0.1 * pairs[1, 0] + 0.1)


def test_a_broken_loss_is_never_lower() -> None:
    bad = torch.tensor([float("nan"), 0.0, 0.0])
    assert not clearly_lower(bad, torch.ones(3))
    assert not clearly_lower(torch.ones(3), bad)


def test_one_huge_image_does_not_hide_the_others() -> None:
    others = torch.tensor([1000.0, 1.0, 2.0, 1.5, 0.5, 1.2])
    assert clearly_lower(others / 50, others)
    assert not clearly_lower(others * torch.tensor([0.99, 1.1, 0.9, 1.1, 0.9, 1.0]), others)
