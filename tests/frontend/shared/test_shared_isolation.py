"""Layers keep what they saw, whatever the model writes to afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.measuring.fisher import GradientTap, fisher_traces
from lampq_onnx.frontend.models.own_weights import own_weights
from lampq_onnx.frontend.shared.isolation import isolate, overwritten
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.tokens import as_tokens
from lampq_onnx.frontend.simulation.chain import BlockChain
from tests.frontend.odd_models import AddsInPlace, InPlaceBlocks, Parametrized, Plain, SharedWeights
from tests.frontend.tiny_models import pixels, tiny_vit


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval().requires_grad_(False)


def layers_of(model: nn.Module) -> list[ModelLayer]:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [ModelLayer(name, "linear", layer, fixed=False) for name, layer in layers]


def test_what_is_overwritten_is_found() -> None:
    model = made(AddsInPlace)
    found = overwritten(model, pixels(2))
    assert found.outputs == (model.patch,)
    assert model in found.blocks
    assert not overwritten(tiny_vit(), pixels(2)).blocks


@pytest.mark.parametrize("kind", [AddsInPlace, InPlaceBlocks])
def test_hooks_see_what_layers_read_and_made(kind: type[nn.Module]) -> None:
    model = made(kind)
    wanted = model(pixels(2))
    assert isolate(model, "odd", pixels(2))
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    for model_layer in layers_of(model):
        model_layer.module.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
    images = pixels(2)
    torch.testing.assert_close(model(images), wanted)
    torch.testing.assert_close(images, pixels(2), rtol=0, atol=0)
    assert len(seen) == len(layers_of(model))
    for layer, inputs, output in seen:
        plain = copy.deepcopy(layer)
        plain._forward_hooks.clear()
        torch.testing.assert_close(plain(inputs), output)


@pytest.mark.parametrize("kind", [AddsInPlace, InPlaceBlocks])
def test_traces_are_those_of_the_gradients_of_the_weights(kind: type[nn.Module]) -> None:
    model = made(kind)
    images, labels = pixels(3), torch.tensor([0, 1, 2])
    wanted = {}
    reference = copy.deepcopy(model)
    isolate(reference, "odd", images)  # for autograd; the hooks below are not used on it
    layers = {u.name: u.module for u in layers_of(reference)}
    for layer in layers.values():
        layer.weight.requires_grad_()
    for i in range(3):
        loss = nn.functional.cross_entropy(reference(images[i : i + 1]), labels[i : i + 1])
        gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
        for name, gradient in zip(layers, gradients, strict=True):
            wanted[name] = wanted.get(name, 0.0) + float(gradient.double().square().sum()) / 3
    isolate(model, "odd", images)
    found = fisher_traces(model, layers_of(model), [(images, labels)])
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_relies_on_an_overwritten_layer_is_refused() -> None:
    class Remembers(nn.Linear):
        """Gives the tensor that it also keeps."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = super().forward(x)
            return self.kept

    class Relies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Remembers(16, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer = self.layer(images.flatten(2).mean(1)[:, :16])
            answer += 1
            return self.layer.kept * 2

    with pytest.raises(LampqError, match="overwrites inputs or outputs"):
        isolate(made(Relies), "odd", pixels(2))


def test_states_of_a_chain_stay_as_they_are() -> None:
    model = made(InPlaceBlocks)
    isolate(model, "odd", pixels(2))
    kinds = {"qkv": "qkv", "proj": "proj", "fc1": "fc1", "fc2": "fc2", "patch": "patch_embed", "head": "head"}
    layers = [ModelLayer(u.name, kinds[u.name.split(".")[-1]], u.module, fixed=False) for u in layers_of(model)]
    chain = BlockChain(model, layers, pixels(1))
    assert len(chain) == 2
    wanted = model(pixels(2))
    for index in range(2):
        states = chain.states([pixels(2)], index)
        for _ in range(2):
            torch.testing.assert_close(chain.logits(states), wanted)
            chain.run_block(states)


class PassedBy(Plain):
    """Its second block is followed by a sum with what the patch layer, or the first block, gave."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early = early
        self.block = nn.ModuleList([Plain().block, Plain().block])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.block[0](self.tokens(images))
        aside = self.patch(images).flatten(2).transpose(1, 2) if self.early else first
        return self.head((self.block[1](first) + aside).mean(1))


@pytest.mark.parametrize(("early", "blocks"), [(True, [""]), (False, ["block.0"])])
def test_only_blocks_that_nothing_passes_by_are_resumed(early: bool, blocks: list[str]) -> None:
    torch.manual_seed(0)
    model = PassedBy(early).eval().requires_grad_(False)
    kinds = {"qkv": "qkv", "proj": "proj", "fc1": "fc1", "fc2": "fc2", "patch": "patch_embed", "head": "head"}
    layers = [ModelLayer(u.name, kinds[u.name.split(".")[-1]], u.module, fixed=False) for u in layers_of(model)]
    chain = BlockChain(model, layers, pixels(1))
    assert [block.name for block in chain.blocks] == blocks
    torch.testing.assert_close(chain.logits(chain.states([pixels(2)])), model(pixels(2)))
    members = [layer.name for block in chain.blocks for layer in block.layers]
    members += [] if early else [layer.name for layer in (*chain.before, *chain.after)]
    assert sorted(members) == sorted(layer.name for layer in layers)
    last = next(layer for layer in layers if layer.name == "block.1.fc1")
    assert chain.index_of(last) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "valid"}, {"padding": "same"}, {"padding": "same", "dilation": 2}, {"padding": (2, 1)},
        {"padding": "same", "padding_mode": "circular"}, {"padding": 2, "padding_mode": "reflect", "stride": 3},
        {"dilation": (1, 2), "stride": (2, 1)},
    ],
)  # fmt: skip
def test_the_tokens_of_a_convolution_give_its_output(arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, (4, 3), **arguments)  # type: ignore[arg-type]
    tokens = as_tokens(layer, pixels(2))
    plain = tokens @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(plain, layer(pixels(2)).flatten(2).mT)


def test_a_tap_on_an_overwritten_output_gives_its_gradient() -> None:
    model = made(AddsInPlace)
    isolate(model, "odd", pixels(1))
    seen: list[torch.Tensor] = []
    layer = ModelLayer("patch", "patch_embed", model.patch, fixed=True)
    with GradientTap([layer], lambda _, __, gradient: seen.append(gradient)), torch.enable_grad():
        model(pixels(1)).sum().backward()
    shifted = copy.deepcopy(model)
    bias = shifted.patch.bias.requires_grad_()
    (wanted,) = torch.autograd.grad(shifted(pixels(1)).sum(), [bias])
    torch.testing.assert_close(seen[0].sum((0, 2, 3)), wanted)


def test_shared_and_computed_weights_become_each_layers_own() -> None:
    shared, computed = made(SharedWeights), made(Parametrized)
    for model in (shared, computed):
        wanted = model(pixels(2))
        own = copy.deepcopy(model)
        own_weights(own)
        torch.testing.assert_close(own(pixels(2)), wanted)
        torch.testing.assert_close(model(pixels(2)), wanted, rtol=0, atol=0)
        weights = [layer._parameters["weight"] for layer in own.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert len({weight.data_ptr() for weight in weights}) == len(weights)
        for model_layer in layers_of(own):
            model_layer.module.weight.data = torch.zeros_like(model_layer.module.weight)
            assert not model_layer.module.weight.any()
