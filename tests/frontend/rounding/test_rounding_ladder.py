"""Layer by layer: moments of the quantized prefix, techniques that are judged, biases that are corrected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.rounding import ladder
from lampq_onnx.frontend.rounding.ladder import LadderSettings, Rounding, climb, techniques
from lampq_onnx.frontend.rounding.moments import LayerMoments, float_output_means, layer_moments
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.gptq import GptqResult, gptq_quantize
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.quantization import ActivationQuantizer
from tests.frontend.rounding.quantized import (
    FIT,
    HELD_OUT,
    PLAIN,
    by_hand,
    grids,
    kl,
    live_copy,
    nearest,
    quantizers,
    same,
    weights,
)
from tests.frontend.tiny_models import layers_of, tiny_vit

LINEAR = [layer.name for layer in layers_of(PLAIN) if isinstance(layer.module, torch.nn.Linear)]
IN_BLOCKS = [name for name in LINEAR if name != "head"]


def climbed(bits: int, settings: LadderSettings | None = None, **changes: object) -> dict[str, Rounding]:
    with live_copy() as (live, chain):
        arguments = {"grids": grids(bits), "inputs": quantizers()} | changes
        found = climb(live, chain, fit=FIT, held_out=HELD_OUT, settings=settings or LadderSettings(), **arguments)
        data = torch.from_numpy(HELD_OUT.images)
        expected = by_hand(weights(found), arguments["inputs"])(data)
        torch.testing.assert_close(live.model(data), expected, rtol=1e-3, atol=1e-3)  # quantized all over
    return found


def inputs_of(model: torch.nn.Module, name: str, hook: bool = True) -> torch.Tensor:
    """What the layer reads, as float64 tokens."""
    seen: list[torch.Tensor] = []
    module = model.get_submodule(name)
    handle = module.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    model(torch.from_numpy(FIT.images))
    handle.remove()
    return as_tokens(module, seen[0]).flatten(0, 1).double()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_better_than_nearest_rounding(bits: int) -> None:
    done: list[int] = []
    found = climbed(bits, progress=done.append)
    assert done == list(range(2, 2 + len(IN_BLOCKS)))
    assert set(found) == set(grids(bits))
    assert sum(techniques(found).values()) == len(found)
    plain, clever = (kl(by_hand(weights(r), quantizers()), HELD_OUT).mean() for r in (nearest(bits), found))
    assert clever < (0.9 if bits < 4 else 1.2) * plain  # noise images have little for GPTQ to gain
    for name in IN_BLOCKS:
        assert {"gptq-0.01", "nearest"} <= set(found[name].losses)
        assert found[name].method in found[name].losses
        assert np.array_equal(found[name].weight.scale, grids(bits)[name].scale)
    for name in ("patch_embed.proj", "head"):
        assert found[name].method == "nearest"
        assert np.array_equal(found[name].weight.codes, nearest(bits)[name].weight.codes)
    assert same(found, climbed(bits))


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        quantizers(4),
    ],
    ids=["float", "quantized"],
)
def test_losses_are_those_of_the_quantized_prefix(inputs: dict[str, ActivationQuantizer]) -> None:
    found = climbed(3, LadderSettings(compared=64), inputs=inputs)  # one batch: all techniques see all images
    prefix = {"patch_embed.proj": found["patch_embed.proj"].weight}
    for name in IN_BLOCKS:
        prefix[name] = found[name].weight
        loss = kl(by_hand(prefix, {n: q for n, q in inputs.items() if n in prefix}), HELD_OUT).mean()
        assert found[name].losses[found[name].method] == pytest.approx(float(loss), rel=2e-2)
        other = nearest(3)[name].weight
        loss = kl(by_hand(prefix | {name: other}, {n: q for n, q in inputs.items() if n in prefix}), HELD_OUT).mean()
        assert found[name].losses["nearest"] == pytest.approx(float(loss), rel=2e-2)


def test_moments_are_those_of_the_quantized_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, LayerMoments] = {}

    def keep(chain: object, states: object, layer: object, *rest: object) -> LayerMoments:
        kept[layer.name] = layer_moments(chain, states, layer, *rest)
        return kept[layer.name]

    monkeypatch.setattr(ladder, "layer_moments", keep)
    found, inputs = climbed(3), quantizers(8)
    prefix = {"patch_embed.proj": found["patch_embed.proj"].weight}
    assert list(kept) == IN_BLOCKS
    for name in IN_BLOCKS:
        model = by_hand(prefix, {n: inputs[n] for n in (*prefix, name)})
        tokens = inputs_of(model, name)
        unit_tokens = tokens / tokens.norm(dim=1, keepdim=True)
        hessian = unit_tokens.T @ unit_tokens / len(tokens)
        torch.testing.assert_close(kept[name].hessian.double(), hessian, rtol=1e-2, atol=3e-4)
        torch.testing.assert_close(kept[name].input_mean.double(), tokens.mean(0), rtol=1e-2, atol=3e-3)
        module = PLAIN.get_submodule(name)
        mean = (inputs_of(PLAIN, name) @ module.weight.T.double() + module.bias).mean(0)
        torch.testing.assert_close(kept[name].output_mean.double(), mean, rtol=1e-3, atol=1e-4)
        prefix[name] = found[name].weight


def test_moments_of_one_layer_by_hand() -> None:
    name = "blocks.1.mlp.fc1"
    quantizer = quantizers(4)[name]
    with live_copy() as (live, chain):
        live.set_weight("blocks.0.mlp.fc2", nearest(2)["blocks.0.mlp.fc2"].weight)
        live.set_weight("blocks.1.attn.proj", nearest(2)["blocks.1.attn.proj"].weight)
        states = chain.states(list(torch.from_numpy(FIT.images).split(16)), 1)
        mean, _ = float_output_means(chain, states)
        found = layer_moments(chain, states, live.layers[name], mean[name], quantizer)
        bare = layer_moments(chain, states, live.layers[name], mean[name], None)
    changed = {n: nearest(2)[n].weight for n in ("blocks.0.mlp.fc2", "blocks.1.attn.proj")}
    for moments, inputs in ((found, {name: quantizer}), (bare, {})):
        tokens = inputs_of(by_hand(changed, inputs), name)
        torch.testing.assert_close(moments.input_mean.double(), tokens.mean(0), rtol=1e-4, atol=1e-5)
        unit_tokens = tokens / tokens.norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            moments.hessian.double(), unit_tokens.T @ unit_tokens / len(tokens), rtol=1e-3, atol=1e-5
        )
    # of the model as it computed then, every layer of the block
    module = PLAIN.get_submodule(name)
    outputs = inputs_of(by_hand(changed, {}), name) @ module.weight.T.double() + module.bias
    torch.testing.assert_close(mean[name].double(), outputs.mean(0), rtol=1e-4, atol=1e-5)
    assert set(mean) == {layer.name for layer in chain.blocks[1].layers}


class UsedTwice(torch.nn.Module):
    """A layer that reads its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = torch.nn.Linear(12, 12), torch.nn.Linear(12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(torch.relu(self.layer(images.flatten(1)[:, :12]))))


def test_inputs_and_outputs_of_a_layer_that_is_used_twice_are_of_the_same_calls() -> None:
    """The first use is the layer of the file; a bias that is corrected by other outputs would be wrong."""
    torch.manual_seed(0)
    model = UsedTwice().eval().requires_grad_(False)
    layers = tuple(ModelLayer(name, name, getattr(model, name), fixed=False) for name in ("layer", "head"))
    batches = list(torch.randn(5, 3, 4, 4).split(2))
    chain = BlockChain(model, layers, batches[0])
    states = chain.states(batches)
    means, _ = float_output_means(chain, states)
    for layer in layers:
        found = layer_moments(chain, states, layer, means[layer.name], None)
        expected = layer.module.weight @ found.input_mean + layer.module.bias
        torch.testing.assert_close(found.output_mean, expected, rtol=1e-5, atol=1e-6)


def test_output_means_of_a_convolution() -> None:
    model = tiny_vit()
    layer = layers_of(model)[0]
    values = torch.randn(2, 16, 4, 4)
    assert grads_as_tokens(layer.module, values).flatten(0, 1).mean(0).allclose(values.mean((0, 2, 3)), atol=1e-6)


def scrambled(weight: torch.Tensor, found: list, *_: object, **__: object) -> list[GptqResult]:
    """Rounding that has nothing to do with the weights."""
    random = np.random.default_rng(0)
    grid = found[0]
    rounded = grid.quantize(weight.numpy())
    codes = random.integers(0, 2**grid.bits, rounded.codes.shape).astype(np.uint8)
    return [GptqResult(replace(rounded, codes=codes), weight, np.zeros(len(weight)))]


def test_a_bad_technique_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "gptq_quantize", scrambled)
    found = climbed(4, LadderSettings(bias_correction=False))
    assert techniques(found) == {"nearest": len(found)}
    assert same(found, {name: replace(r, losses={}) for name, r in nearest(4).items()})
    assert all(found[name].losses["gptq-0.01"] > found[name].losses["nearest"] for name in IN_BLOCKS)


def test_a_bad_damping_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def mostly(
        weight: torch.Tensor, found: list, hessian: torch.Tensor, *, damping: float, latent: bool
    ) -> list[GptqResult]:
        if damping == 0.1:
            return scrambled(weight, found)
        return gptq_quantize(weight, found, hessian, damping=damping, latent=latent)

    monkeypatch.setattr(ladder, "gptq_quantize", mostly)
    for dampings in ((0.01, 0.1), (0.1, 0.01)):
        found = climbed(4, LadderSettings(dampings=dampings, bias_correction=False))
        assert "gptq-0.1" not in techniques(found)
        assert techniques(found)["gptq-0.01"] >= len(IN_BLOCKS) // 2
        assert set(found[IN_BLOCKS[0]].losses) == {"gptq-0.01", "gptq-0.1", "nearest"}


def test_a_bad_bias_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_corrected_bias", lambda rounded, *_: np.full(len(rounded.codes), 3, np.float32))
    found = climbed(4)
    # a constant that is the same for all features is what a LayerNorm takes out again, and a softmax does not see
    spoiled = [name for name, rounding in found.items() if rounding.method.endswith("+bias")]
    assert not [name for name in spoiled if name.endswith(("fc1", "qkv"))]
    assert all(rounding.weight.bias is None for name, rounding in found.items() if name not in spoiled)


def test_bias_correction_gives_the_float_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "wins", lambda *_: True)
    found, inputs = climbed(3, LadderSettings(compared=64)), quantizers()
    assert techniques(found) == {"nearest": 2, "nearest+bias": len(IN_BLOCKS)}  # the last of those tried, always
    model = by_hand(weights(found), inputs)
    without = by_hand({name: replace(w, bias=None) for name, w in weights(found).items()}, inputs)
    for name in IN_BLOCKS:
        module, exact = model.get_submodule(name), PLAIN.get_submodule(name)
        tokens = inputs_of(model, name)
        mean = (tokens @ module.weight.T.double() + module.bias).mean(0)
        expected = (inputs_of(PLAIN, name) @ exact.weight.T.double() + exact.bias).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-2, atol=5e-3)
        off = (inputs_of(without, name) @ module.weight.T.double() + exact.bias).mean(0)
        assert float((off - expected).norm()) > 5 * float((mean - expected).norm())


def test_layers_outside_the_plan_stay_in_float() -> None:
    some = {name: grid for name, grid in grids(2).items() if name.startswith("blocks.1")}
    found = climbed(2, grids=some, inputs={n: q for n, q in quantizers(4).items() if n in some and "fc2" not in n})
    assert set(found) == set(some)
    assert clearly_lower(torch.zeros(24), kl(by_hand(weights(found), {}), HELD_OUT))
