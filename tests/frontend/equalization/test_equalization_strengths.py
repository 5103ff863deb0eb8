"""How far inputs are equalized: channels of planted sizes, and the errors that follow."""

from __future__ import annotations

import copy

import pytest
import torch

from lampq_onnx.frontend.equalization.fold import Equalization, applied
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.equalization.strengths import Strength, channel_ranges, choose_strengths, equalizing
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.simulate import WeightRounder, fake_quantize
from lampq_onnx.quantization import ActivationQuantizer
from tests.frontend.tiny_models import images, layers_of, pixels, tiny_vit, untouched

FIT, HELD_OUT = images(24, seed=1), images(160, seed=2)
SIZES = {"norm": "blocks.0.attn.qkv", "linear": "blocks.1.attn.proj", "multiply": "blocks.1.mlp.fc2"}


def links_of(model: torch.nn.Module) -> dict[str, Link]:
    layers = {layer.name: layer for layer in layers_of(model)}
    return {
        "norm": Link("norm", (layers[SIZES["norm"]],), norm=model.blocks[0].norm1, shift=True),
        "linear": Link(
            "linear", (layers[SIZES["linear"]],), source=layers["blocks.1.attn.qkv"], start=32, shift=True
        ),
        "multiply": Link("multiply", (layers[SIZES["multiply"]],)),
    }  # fmt: skip


def planted() -> tuple[torch.nn.Module, dict[str, Link]]:
    """A model of which the links' first two channels are 50 times larger, and their weights as much smaller.

    fc2 reads GELU, which no factor goes through: its large channels come from fc1.
    """
    model = tiny_vit()
    links = links_of(model)
    for kind in ("norm", "linear"):
        scale = torch.ones(16)
        scale[:2] = 1 / 50
        change = Equalization(links[kind], scale, torch.zeros(16))
        with applied(change):
            changed = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(changed)
    mlp = model.blocks[1].mlp
    mlp.fc1.weight[:2] *= 50
    mlp.fc2.weight[:, :2] /= 50
    return model, links


def chosen(model: torch.nn.Module, links: dict[str, Link], **changes: int) -> dict[str, Strength]:
    arguments = {"weight_bits": 8, "activation_bits": 6, "seed": 0} | changes
    found = choose_strengths(model, list(links.values()), FIT, HELD_OUT, **arguments)
    assert untouched(model)
    return dict(zip(links, found, strict=True))


def output_error(model: torch.nn.Module, layer: ModelLayer, weight_bits: int, activation_bits: int) -> float:
    """Of the layer as the file would have it, min-max range and nearest rounding; relative, on new images."""
    low, high = channel_ranges(model, [layer], FIT)
    quantizer = ActivationQuantizer.from_range(
        float(low[layer.name].min()), float(high[layer.name].max()), activation_bits
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    handle = layer.module.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    model(pixels(16, seed=7))
    handle.remove()
    module = copy.deepcopy(layer.module)
    module._forward_pre_hooks.clear()
    exact = module(seen[0])
    module.weight.copy_(WeightRounder([layer]).dequantized(layer.name, weight_bits))
    return float((module(fake_quantize(seen[0], quantizer)) - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("activation_bits", [8, 6, 4])
def test_large_channels_are_equalized_and_the_error_falls(activation_bits: int) -> None:
    model, links = planted()
    expected = model(pixels(4))
    found = chosen(model, links, activation_bits=activation_bits)
    for kind, strength in found.items():
        layer = links[kind].readers[0]
        assert strength.strength > 0, kind
        assert strength.gain > 1.2, kind
        scale = strength.equalization.scale
        assert float(scale[:2].min()) > 2 * float(scale[2:].median())
        before = output_error(model, layer, 8, activation_bits)
        with applied(strength.equalization):
            torch.testing.assert_close(model(pixels(4)), expected, rtol=1e-3, atol=1e-3)
            assert output_error(model, layer, 8, activation_bits) < before / 1.2, kind
        assert output_error(model, layer, 8, activation_bits) == before


def test_even_channels_are_left_alone() -> None:
    model = tiny_vit()
    found = chosen(model, {"norm": links_of(model)["norm"]}, activation_bits=8, weight_bits=4)["norm"]
    assert (found.strength, found.gain) == (0.0, 1.0)
    assert torch.equal(found.equalization.scale, torch.ones(16))
    assert not found.equalization.shift.any()


def test_what_helps_every_image_a_hundredfold_is_taken() -> None:
    model, links = planted()
    few = images(24, seed=2)
    norm = links["norm"]
    found = choose_strengths(model, [norm], FIT, few, weight_bits=8, activation_bits=8, seed=0)[0]
    assert found.strength > 0


def test_the_choice_is_seeded() -> None:
    model, links = planted()
    first, again = chosen(model, links), chosen(model, links)
    assert [(s.strength, s.gain) for s in first.values()] == [(s.strength, s.gain) for s in again.values()]


def test_ranges_of_channels() -> None:
    model = tiny_vit()
    layer = links_of(model)["multiply"].readers[0]
    low, high = channel_ranges(model, [layer], images(20))
    seen: list[torch.Tensor] = []
    handle = layer.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    model(pixels(20))
    handle.remove()
    torch.testing.assert_close(low[layer.name], seen[0].flatten(0, 1).amin(0))
    torch.testing.assert_close(high[layer.name], seen[0].flatten(0, 1).amax(0))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["norm", "multiply"])
def test_scales_by_hand(kind: str, strength: float) -> None:
    link = links_of(tiny_vit())[kind]
    low, high = torch.tensor([-1.0, -2.0, 4.0, -100.0]), torch.tensor([1.0, 6.0, 8.0, 28.0])
    shift = torch.tensor([0.0, 2.0, 6.0, -36.0]) if link.shift else torch.zeros(4)
    radius = torch.tensor([1.0, 4.0, 2.0, 64.0]) if link.shift else torch.tensor([1.0, 6.0, 8.0, 100.0])
    found = equalizing(link, low, high, strength)
    torch.testing.assert_close(found.shift, shift)
    torch.testing.assert_close(found.scale, radius**strength / radius.prod() ** (strength / 4))
    assert float(found.scale.log().sum()) == pytest.approx(0, abs=1e-5)


def test_constant_channels_are_not_divided() -> None:
    links = links_of(tiny_vit())
    low, high = torch.tensor([3.0, -1.0, 0.0, -4.0]), torch.tensor([3.0, 1.0, 0.0, 4.0])
    found = equalizing(links["norm"], low, high, 1.0)
    torch.testing.assert_close(found.scale, torch.tensor([1.0, 0.5, 1.0, 2.0]))
    torch.testing.assert_close(found.shift, torch.tensor([3.0, 0.0, 0.0, 0.0]))
    found = equalizing(links["multiply"], low[1:], high[1:], 1.0)  # zero all the time, as after ReLU
    torch.testing.assert_close(found.scale, torch.tensor([0.5, 1.0, 2.0]))
    for kind in ("norm", "multiply"):
        found = equalizing(links[kind], torch.zeros(4), torch.zeros(4), 0.5)
        assert torch.equal(found.scale, torch.ones(4))
        assert not found.shift.any()


def test_a_model_with_constant_channels_stays_exact() -> None:
    model, links = planted()
    model.blocks[0].norm1.weight[3] = 0  # constant: the bias
    model.blocks[0].norm1.weight[4] = model.blocks[0].norm1.bias[4] = 0  # always zero
    model.blocks[1].attn.qkv.weight[32 + 5] = 0
    expected = model(pixels(4))
    low, high = channel_ranges(model, [link.readers[0] for link in links.values()], FIT)
    for strength in (0.5, 1.0):
        for link in links.values():
            change = equalizing(link, low[link.name], high[link.name], strength)
            with applied(change):
                torch.testing.assert_close(model(pixels(4)), expected, rtol=1e-4, atol=1e-4)
    scale = equalizing(links["norm"], low[SIZES["norm"]], high[SIZES["norm"]], 1.0).scale
    assert scale[3:5].tolist() == [1, 1]
    for strength in chosen(model, links).values():
        assert bool(torch.isfinite(strength.equalization.scale).all())
        assert bool((strength.equalization.scale > 0).all())


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_a_model_without_places_to_equalize_has_no_strengths(weight_bits: int) -> None:
    """ConvNeXt with convolutions in its MLPs is such a model; gradients of no layer cannot be asked for."""
    arguments = {"weight_bits": weight_bits, "activation_bits": 8, "seed": 0}
    assert choose_strengths(tiny_vit(), [], FIT, HELD_OUT, **arguments) == []
