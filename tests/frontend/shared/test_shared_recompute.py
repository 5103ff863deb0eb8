"""Gradients of large images: blocks are computed again, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch.autograd.graph import saved_tensors_hooks

from lampq_onnx.artifacts import image_size
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.shared.recompute import blocks_of, recomputed

SIDE = 32


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = timm.create_model(
        "vit_tiny_patch16_224", depth=4, embed_dim=24, num_heads=2, img_size=SIDE, patch_size=4, num_classes=5
    )
    return made.eval().requires_grad_(False)


@pytest.fixture
def layers(model: torch.nn.Module) -> Any:
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [SimpleNamespace(name=name, module=module) for name, module in found]


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_size, "LARGE_PIXELS", SIDE * SIDE - 1)


def gradients(model: torch.nn.Module, layers: Any) -> tuple[list[tuple[str, torch.Tensor, torch.Tensor]], int]:
    """What a visitor is told, and the most bytes that one pass holds for the way back."""
    seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    held = {0: 0}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[0] += tensor.numel() * tensor.element_size()
        return tensor

    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        visit_gradients(
            model, layers, [(images, None)], lambda _, layer, x, g: seen.append((layer.name, x, g.clone())), seed=0
        )
    return seen, held[0]


def test_gradients_are_the_same_to_the_bit(
    model: torch.nn.Module, layers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = gradients(model, layers)
    large(monkeypatch)
    again, _ = gradients(model, layers)
    assert [name for name, _, _ in plain] == [name for name, _, _ in again]
    assert len({name for name, _, _ in plain}) == len(plain) == 17
    for (_, x, g), (_, x_again, g_again) in zip(plain, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(g, g_again)


def test_only_what_is_outside_of_blocks_is_held(
    model: torch.nn.Module, layers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = gradients(model, layers)
    large(monkeypatch)
    _, again = gradients(model, layers)
    assert again < plain / 10


def test_small_images_pass_as_they_are(model: torch.nn.Module, layers: Any) -> None:
    with recomputed(model, layers, torch.zeros(1, 3, SIDE, SIDE)):
        assert "forward" not in model.get_submodule("blocks.0").__dict__


def test_blocks_are_the_smallest_modules_with_several_layers(model: torch.nn.Module, layers: Any) -> None:
    assert blocks_of(model, layers) == list(model.get_submodule("blocks").children())


def test_nothing_stays_behind(model: torch.nn.Module, layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    block = model.get_submodule("blocks.0")
    with recomputed(model, layers, torch.zeros(1, 3, SIDE, SIDE)):
        assert "forward" in block.__dict__
    assert "forward" not in block.__dict__
