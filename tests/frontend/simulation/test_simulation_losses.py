"""Losses image by image."""

from __future__ import annotations

import math

import pytest
import torch

from lampq_onnx.frontend.likelihoods.classification import image_kl
from lampq_onnx.frontend.simulation.losses import clearly_lower, image_losses, loss_of


def test_kl_of_each_image_by_hand() -> None:
    probabilities = [([0.5, 0.5], [0.25, 0.75]), ([0.9, 0.1], [0.9, 0.1]), ([0.2, 0.8], [0.6, 0.4])]
    p, q = (torch.tensor([pair[i] for pair in probabilities]).log() for i in (0, 1))
    expected = [sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in probabilities]
    found = image_kl(q + 3, p - 5)  # constants do not matter
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert loss_of(q, p, None, "kl") == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_losses_of_each_image_by_hand() -> None:
    reference, logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    labels = torch.tensor([0, 1])
    assert image_losses(logits, reference, labels, "top1").tolist() == [1.0, 0.0]
    rise = [
        math.log(1 + math.exp(2)) - math.log(1 + math.exp(-2)),
        math.log(1 + math.exp(-3)) - math.log(1 + math.exp(-1)),
    ]
    assert image_losses(logits, reference, labels, "nll").tolist() == pytest.approx(rise)
    assert loss_of(logits, reference, labels, "nll") == pytest.approx(sum(rise) / 2)


def test_lower_on_tensors() -> None:
    assert clearly_lower(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.5, 5.0]))
    assert not clearly_lower(torch.tensor([2.0, 2.5, 5.0]), torch.tensor([1.0, 2.0, 3.0]))
