"""Shares of output channels: against gradients of autograd, and the same in any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.likelihoods import CLASSES
from lampq_onnx.frontend.likelihoods.multi_label import MultiLabelLikelihood
from lampq_onnx.frontend.measuring.channels import channel_shares, score_noise
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import device_of, tensors
from tests.frontend.tiny_models import images, loaded, tiny_vit


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    found = Frontend(loaded(tiny_vit()))
    found.use_gptq(images(16), widths=(2, 3, 4))
    return found


def test_the_noise_has_the_second_moment_of_the_fisher_information() -> None:
    outputs = torch.tensor([[2.0, 0.0, -1.0, 0.5]]).repeat(60_000, 1)
    found = score_noise(CLASSES, outputs, torch.Generator().manual_seed(0)).double()
    p = outputs[0].double().softmax(-1)
    assert torch.allclose(found.T @ found / len(found), torch.diag(p) - p[:, None] * p, atol=5e-3)
    scores = torch.tensor([[1.0, -2.0]]).repeat(60_000, 1)
    drawn = score_noise(MultiLabelLikelihood(), scores, torch.Generator().manual_seed(0)).double()
    q = scores[0].double().sigmoid()
    assert torch.allclose(drawn.T @ drawn / len(drawn), torch.diag(q * (1 - q)), atol=5e-3)


def test_shares_against_gradients_of_weights(frontend: Frontend) -> None:
    """The squared inner product of each row's change with its gradient, by autograd through the weight itself."""
    module, data = frontend.loaded.module, images(6)
    layer = next(own for own in frontend.exported.layers if own.type == "fc1")
    found = np.array(channel_shares(module, data, [layer], frontend.rounder, (3,), seed=5, draws=1)[layer.name])
    weight = layer.module.weight
    weight.requires_grad_(True)
    change = frontend.rounder.dequantized(layer.name, 3) - weight.detach()
    squares, energy = torch.zeros(len(weight)), torch.zeros(len(weight))
    try:
        for number, (batch, _) in enumerate(tensors(data, device_of(module))):
            outputs = module(batch)
            noise = score_noise(CLASSES, outputs.detach(), torch.Generator().manual_seed(5 + number))
            for i in range(len(batch)):
                seen: list[torch.Tensor] = []
                handle = layer.module.register_forward_hook(lambda _, x, y, seen=seen: seen.extend((x[0], y)))
                own = module(batch[i : i + 1])
                handle.remove()
                of_weight, of_output = torch.autograd.grad(own, [weight, seen[1]], noise[i : i + 1])
                squares += (of_weight * change).sum(1).square()
                energy += (of_output.square() * seen[0].square().sum(-1, keepdim=True)).sum((0, 1))
    finally:
        weight.requires_grad_(False)
    errors = torch.from_numpy(frontend.rounder.row_errors(layer.name, 3))
    first, second = squares.double() / squares.mean(), (energy * errors) / (energy * errors).mean()
    wanted = (first * second).sqrt().numpy() ** 0.8
    assert found == pytest.approx(wanted / wanted.sum(), rel=2e-2)
    assert found.sum() == pytest.approx(1, abs=1e-2)


def test_no_power_means_equal_shares(frontend: Frontend) -> None:
    layer = frontend.exported.layers[1]
    shares = channel_shares(frontend.loaded.module, images(4), [layer], frontend.rounder, (2, 8), seed=0, power=0)
    assert len(set(shares[layer.name])) == 1


class Half:
    """One of two processes, whose sums are added by hand."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size = rank, 2
        self.parts: list[np.ndarray] = []

    def sum(self, values: np.ndarray) -> np.ndarray:
        self.parts.append(values)
        return values

    max = sum


def test_two_processes_share_the_images(frontend: Frontend) -> None:
    module, layer, data = frontend.loaded.module, frontend.exported.layers[1], images(40)
    halves = Half(0), Half(1)
    for half in halves:
        channel_shares(module, data, [layer], frontend.rounder, (3,), seed=1, group=half)
    single = channel_shares(module, data, [layer], frontend.rounder, (3,), seed=1)[layer.name]
    both = [a + b for a, b in zip(halves[0].parts, halves[1].parts, strict=True)]
    joined = Joined(both)
    again = channel_shares(module, data, [layer], frontend.rounder, (3,), seed=1, group=joined)[layer.name]
    assert again == pytest.approx(single, rel=1e-2)


class Joined(Half):
    """A process that gets the sums of all."""

    def __init__(self, sums: list[np.ndarray]) -> None:
        super().__init__(0)
        self._sums = iter(sums)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return next(self._sums)
