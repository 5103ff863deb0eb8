"""A model whose layers change in turn, and is the float one afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.rounding.tune import float_copy
from lampq_onnx.frontend.simulation.live import LiveModel, live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight
from tests.frontend.by_hand import by_hand
from tests.frontend.tiny_models import layers_of, pixels, tiny_vit, untouched

FC1, FC2, QKV, PATCHES = "blocks.0.mlp.fc1", "blocks.1.mlp.fc2", "blocks.0.attn.qkv", "patch_embed.proj"
QUANTIZER = ActivationQuantizer.from_range(-2, 2, 3)


def rounded(model: torch.nn.Module, name: str, bias: bool = False) -> QuantizedWeight:
    weight = WeightRounder(layers_of(model)).quantized(name, 3)
    random = np.random.default_rng(0)
    return replace(weight, bias=random.normal(size=len(weight.codes)).astype(np.float32)) if bias else weight


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny_vit(qkv_bias=False)


@pytest.fixture
def restored(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Images; afterwards the model has to be as before, to the last object."""
    images = pixels(3)
    expected = model(images)
    parameters = [dict(module._parameters) for module in model.modules()]
    storages = [p.data_ptr() for p in model.parameters()]
    yield images
    assert untouched(model)
    for module, before in zip(model.modules(), parameters, strict=True):
        assert {n: id(p) for n, p in module._parameters.items()} == {n: id(p) for n, p in before.items()}
    assert [p.data_ptr() for p in model.parameters()] == storages
    assert torch.equal(model(images), expected)


def test_layers_change_one_at_a_time(model: torch.nn.Module, restored: torch.Tensor) -> None:
    float_logits = model(restored)
    # a bias for a layer that has none, one in place of another, a convolution, and one that keeps its own
    weights = {n: rounded(model, n, bias) for n, bias in ((QKV, True), (FC1, True), (PATCHES, False), (FC2, False))}
    expected = by_hand(model, weights, {FC2: QUANTIZER, QKV: QUANTIZER})(restored)
    assert not torch.allclose(expected, float_logits, atol=0.01)
    with live_model(model, layers_of(model)) as live:
        assert torch.equal(model(restored), float_logits)
        for name, weight in weights.items():
            live.set_weight(name, weight)
        live.set_input(FC2, QUANTIZER)
        live.set_input(QKV, QUANTIZER)
        torch.testing.assert_close(model(restored), expected, rtol=1e-6, atol=1e-6)
        for name in weights:
            live.set_weight(name, None)
            live.set_input(name, None)
        assert torch.equal(model(restored), float_logits)
        live.set_weight(QKV, weights[QKV])
        live.set_weight(QKV, rounded(model, QKV))  # no bias: back to the module's own, which is none
        assert model.blocks[0].attn.qkv.bias is None


def test_originals_stay_known(model: torch.nn.Module, restored: torch.Tensor) -> None:
    weight, bias = model.blocks[0].mlp.fc1.weight.clone(), model.blocks[0].mlp.fc1.bias
    with live_model(model, layers_of(model)) as live:
        live.set_weight(FC1, rounded(model, FC1, bias=True))
        assert torch.equal(live.weight(FC1), weight)
        assert torch.equal(live.bias(FC1), bias.data)
        assert live.bias(QKV) is None
        assert live.weight(PATCHES).shape == (16, 48)
        assert live.device == torch.device("cpu")


def test_replace_gets_the_float_input(model: torch.nn.Module, restored: torch.Tensor) -> None:
    with live_model(model, layers_of(model)) as live:
        live.set_input(FC1, QUANTIZER)
        quantized = model(restored)
        seen: list[torch.Tensor] = []
        live.replace(FC1, lambda x: seen.append(x) or torch.nn.functional.linear(x, live.weight(FC1), live.bias(FC1)))
        torch.testing.assert_close(model(restored), live_float(live, restored), rtol=1e-6, atol=1e-6)
        assert not torch.equal(seen[0], torch.from_numpy(QUANTIZER.fake(seen[0].numpy())))
        live.replace(FC1, None)
        assert torch.equal(model(restored), quantized)


def live_float(live: LiveModel, images: torch.Tensor) -> torch.Tensor:
    with live.in_float():
        return live.model(images)


@pytest.mark.parametrize("fails", [False, True])
def test_in_float_comes_back(model: torch.nn.Module, restored: torch.Tensor, fails: bool) -> None:
    float_logits = model(restored)
    with live_model(model, layers_of(model)) as live:
        live.set_weight(QKV, rounded(model, QKV, bias=True))
        live.set_input(FC2, QUANTIZER)
        live.replace(FC1, torch.nn.Linear(16, 64))
        changed = model(restored)

        def inside() -> None:
            with live.in_float():
                assert torch.equal(model(restored), float_logits)
                live.set_weight(FC2, rounded(model, FC2))
                live.set_input(QKV, QUANTIZER)
                live.replace(FC1, None)
                if fails:
                    raise RuntimeError("inside")

        if fails:
            with pytest.raises(RuntimeError, match="inside"):
                inside()
        else:
            inside()
        assert torch.equal(model(restored), changed)
        live.reset()
        assert torch.equal(model(restored), float_logits)


def test_an_exception_restores_everything(model: torch.nn.Module, restored: torch.Tensor) -> None:
    def inside() -> None:
        with live_model(model, layers_of(model)) as live:
            for layer in layers_of(model):
                live.set_weight(layer.name, rounded(model, layer.name, bias=True))
                live.set_input(layer.name, QUANTIZER)
            live.replace(FC1, torch.nn.Linear(16, 64))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside()


def test_a_failing_forward_restores_everything(model: torch.nn.Module, restored: torch.Tensor) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("inside")

    def inside() -> None:
        with live_model(model, layers_of(model)) as live:
            live.set_weight(FC2, rounded(model, FC2, bias=True))
            live.replace(FC1, fail)
            model(restored)

    with pytest.raises(RuntimeError, match="inside"):
        inside()


def test_shared_biases_change_alone(model: torch.nn.Module) -> None:
    model.blocks[1].mlp.fc1.bias = model.blocks[0].mlp.fc1.bias
    weight = rounded(model, FC1, bias=True)
    with live_model(model, layers_of(model)) as live:
        live.set_weight(FC1, weight)
        assert torch.equal(model.blocks[1].mlp.fc1.bias, live.bias("blocks.1.mlp.fc1"))
        assert not torch.equal(model.blocks[0].mlp.fc1.bias, model.blocks[1].mlp.fc1.bias)
    assert model.blocks[1].mlp.fc1.bias is model.blocks[0].mlp.fc1.bias


def test_shared_weights_change_alone(model: torch.nn.Module) -> None:
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    weight = rounded(model, FC1)
    with live_model(model, layers_of(model)) as live:
        live.set_weight(FC1, weight)
        assert torch.equal(model.blocks[1].mlp.fc1.weight, live.weight("blocks.1.mlp.fc1"))


def test_the_float_copy_is_another_model(model: torch.nn.Module, restored: torch.Tensor) -> None:
    float_logits = model(restored)
    with live_model(model, layers_of(model)) as live:
        live.set_weight(QKV, rounded(model, QKV, bias=True))
        live.set_input(FC2, QUANTIZER)
        changed = model(restored)
        copied = float_copy(live)
        assert torch.equal(copied(restored), float_logits)
        assert torch.equal(model(restored), changed)
        assert untouched(copied)
        copied.head.weight.zero_()
        assert torch.equal(model(restored), changed)
