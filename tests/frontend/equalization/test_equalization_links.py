"""Which inputs can be scaled where, and that it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import timm
import torch
from timm.layers import Mlp, SwiGLU, SwiGLUPacked

from lampq_onnx.frontend.equalization.fold import Equalization, applied, apply
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.equalization.links import find_links
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.shared.factor import ChannelFactor
from lampq_onnx.frontend.shared.model_layers import Exported
from lampq_onnx.frontend.simulation.chain import BlockChain
from tests.frontend.tiny_models import loaded, pixels, tiny_vit, untouched


@dataclass(frozen=True)
class Found:
    model: torch.nn.Module
    exported: Exported
    links: tuple[Link, ...]

    def of(self, name: str) -> Link:
        return next(link for link in self.links if any(layer.name == name for layer in link.readers))

    def kinds(self) -> dict[str, str]:
        return {layer.name: link.kind for link in self.links for layer in link.readers}


def found_in(model: torch.nn.Module) -> Found:
    exported = export_model(loaded(model))
    chain = BlockChain(model, exported.layers, pixels(1))
    parameters = [id(p) for p in model.parameters()]
    found = Found(model, exported, find_links(exported, model, chain, pixels(3, seed=9)))
    assert [id(p) for p in model.parameters()] == parameters
    assert untouched(model)
    return found


def random_change(link: Link, seed: int = 0) -> Equalization:
    """Factors from 1/8 to 8, and constants of about the size of the values."""
    generator = torch.Generator().manual_seed(seed)
    scale = 8 ** (2 * torch.rand(link.channels, generator=generator) - 1)
    shift = torch.randn(link.channels, generator=generator) if link.shift else torch.zeros(link.channels)
    return Equalization(link, scale, shift)


def read_by(model: torch.nn.Module, link: Link, data: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = link.readers[0].module.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    model(data)
    handle.remove()
    return seen[0]


def assert_exact(found: Found) -> None:
    """One link after the other, and all at once: what readers get is another, what comes out is the same."""
    model, data = found.model, pixels(4)
    expected = model(data)
    for link in found.links:
        before, change = read_by(model, link, data), random_change(link)
        with applied(change):
            torch.testing.assert_close(model(data), expected, rtol=1e-4, atol=1e-4)
            inside = read_by(model, link, data)
            torch.testing.assert_close(inside, (before - change.shift) / change.scale, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(data), expected)


@pytest.fixture(scope="module")
def vit() -> Found:
    return found_in(tiny_vit())


def test_the_links_of_a_vit(vit: Found) -> None:
    assert len(vit.links) == 8
    for i in range(2):
        qkv, proj, fc1, fc2 = (vit.of(f"blocks.{i}.{name}") for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
        block = vit.model.blocks[i]
        assert (qkv.kind, qkv.norm, qkv.shift) == ("norm", block.norm1, True)
        assert (fc1.kind, fc1.norm, fc1.shift) == ("norm", block.norm2, True)
        assert (proj.kind, proj.source.name, proj.start, proj.shift) == ("linear", f"blocks.{i}.attn.qkv", 32, True)
        assert (fc2.kind, fc2.norm, fc2.source, fc2.shift) == ("multiply", None, None, False)  # GELU in between
        assert [link.channels for link in (qkv, proj, fc1, fc2)] == [16, 16, 16, 64]
        assert fc2.name == f"blocks.{i}.mlp.fc2"


def test_every_link_of_a_vit_is_exact(vit: Found) -> None:
    assert_exact(vit)


def test_a_shift_through_gelu_is_not_what_a_trial_takes(vit: Found) -> None:
    """The guess that `find_links` drops: scales through a nonlinearity."""
    fc2 = vit.of("blocks.0.mlp.fc2").readers[0]
    fc1 = vit.of("blocks.0.mlp.fc1").readers[0]
    wrong, data = Link("linear", (fc2,), source=fc1), pixels(4)
    expected = vit.model(data)
    with applied(random_change(wrong)):
        assert float((vit.model(data) - expected).norm() / expected.norm()) > 0.01
    assert torch.equal(vit.model(data), expected)


def test_a_trial_starts_at_its_block_and_ends_at_the_first_difference(vit: Found) -> None:
    model, calls = vit.model, [0, 0]
    chain = BlockChain(model, vit.exported.layers, pixels(1))

    def count(place: int) -> None:
        calls[place] += 1

    handles = [
        block.mlp.fc2.register_forward_hook(lambda *_, place=place: count(place))
        for place, block in enumerate(model.blocks)
    ]
    find_links(vit.exported, model, chain, pixels(3, seed=9))
    for handle in handles:
        handle.remove()
    whole = 2  # passes for the answers, and for the readers of LayerNorms
    held, wrong = 3, 2  # two LayerNorms and the values; fc1 as the source of fc2, with and without a shift
    inputs = 2  # of the second block: after the LayerNorms, the linear guesses begin at the first block again
    assert calls == [whole + inputs + held + wrong, whole + held + held + wrong]


@pytest.mark.parametrize("kind", ["norm", "linear", "multiply"])
def test_applied_restores_after_an_exception(vit: Found, kind: str) -> None:
    model, data = vit.model, pixels(2)
    link = next(link for link in vit.links if link.kind == kind)
    expected = model(data)
    parameters = [(p, p.clone()) for p in model.parameters()]

    def inside() -> None:
        with applied(random_change(link)):
            raise RuntimeError("inside")

    handle = link.readers[0].module.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="inside"):
        inside()
    assert len(link.readers[0].module._forward_pre_hooks) == 1  # hooks that were there stay
    handle.remove()
    assert untouched(model)
    for found, (before, value) in zip(model.parameters(), parameters, strict=True):
        assert found is before
        assert torch.equal(found, value)
    assert torch.equal(model(data), expected)


def test_a_layer_that_adds_little_does_not_hide_a_wrong_guess() -> None:
    """Scales through GELU change the logits by less than the tolerance here."""
    model = tiny_vit()
    for block in model.blocks:
        block.mlp.fc2.weight.mul_(1e-6)
        block.mlp.fc2.bias.mul_(1e-6)
    found = found_in(model)
    assert {kind for name, kind in found.kinds().items() if "fc2" in name} == {"multiply"}
    assert_exact(found)


def test_the_exported_graph_is_the_equalized_model() -> None:
    found = found_in(tiny_vit(seed=1))
    data = pixels(5)
    before = found.model(data)
    for i, link in enumerate(found.links):
        apply(random_change(link, seed=i))
    after = found.model(data)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    again = export_model(loaded(found.model))
    assert [layer.name for layer in again.layers] == [layer.name for layer in found.exported.layers]
    assert again.skipped == found.exported.skipped
    session = ort.InferenceSession(ir.to_proto(again.model).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"input": data.numpy()})[0], after.numpy(), rtol=1e-4, atol=1e-4)
    muls = [sum(node.op_type == "Mul" for node in graph.graph) for graph in (found.exported.model, again.model)]
    assert muls[1] - muls[0] == 2  # one before each fc2, none elsewhere
    hooks = [hook for module in found.model.modules() for hook in module._forward_pre_hooks.values()]
    assert [type(hook) for hook in hooks] == [ChannelFactor] * 2


class AlsoAdded(timm.models.vision_transformer.Block):
    """The LayerNorm's output goes around the attention as well."""

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        normed = self.norm1(x)
        x = x + self.attn(normed) + 0.5 * normed
        return x + self.mlp(self.norm2(x))


class WithoutAttention(timm.models.vision_transformer.Block):
    """The output of the first LayerNorm is added."""

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        x = x + 0.5 * self.norm1(x)
        return x + self.mlp(self.norm2(x))


def test_a_norm_that_an_earlier_block_calls_is_left_alone() -> None:
    model = tiny_vit()
    model.blocks[0].__class__ = WithoutAttention
    model.blocks[1].norm1 = model.blocks[0].norm1
    found = found_in(model)
    assert found.kinds()["blocks.1.attn.qkv"] == "multiply"
    assert_exact(found)


def test_a_norm_with_another_reader_is_left_alone() -> None:
    model = tiny_vit()
    model.blocks[0].__class__ = AlsoAdded
    found = found_in(model)
    assert found.of("blocks.0.attn.qkv").kind == "multiply"
    assert found.of("blocks.1.attn.qkv").kind == "norm"
    assert found.of("blocks.0.mlp.fc1").kind == "norm"
    assert_exact(found)


def test_parameters_that_modules_share_are_left_alone() -> None:
    model = tiny_vit(depth=3)
    first, second, third = model.blocks
    second.norm1.weight = first.norm1.weight
    third.norm2.bias = second.norm2.bias
    third.attn.proj.bias = first.attn.proj.bias
    found = found_in(model)
    kinds = found.kinds()
    assert [kinds[f"blocks.{i}.attn.qkv"] for i in range(3)] == ["multiply", "multiply", "norm"]
    assert [kinds[f"blocks.{i}.mlp.fc1"] for i in range(3)] == ["norm", "multiply", "multiply"]
    # layers that share are no readers at all: folding into one would change the other
    assert "blocks.0.attn.proj" not in kinds
    assert "blocks.2.attn.proj" not in kinds
    assert kinds["blocks.1.attn.proj"] == "linear"
    assert_exact(found)


def test_a_norm_that_runs_twice_is_left_alone() -> None:
    model = tiny_vit()
    model.blocks[1].norm1 = model.blocks[0].norm1
    model.blocks[1].norm2 = model.blocks[1].norm1
    found = found_in(model)
    kinds = found.kinds()
    assert [kinds[f"blocks.{i}.attn.qkv"] for i in range(2)] == ["multiply", "multiply"]
    assert [kinds[f"blocks.{i}.mlp.fc1"] for i in range(2)] == ["norm", "multiply"]
    assert_exact(found)


def test_without_a_bias_nothing_is_shifted() -> None:
    model = tiny_vit(depth=4, qkv_bias=False)
    model.blocks[1].norm2.bias = None
    model.blocks[2].mlp.fc1.bias = None
    model.blocks[3].norm1.weight = None  # nothing to fold into
    found = found_in(model)
    assert not found.of("blocks.0.attn.qkv").shift
    assert not found.of("blocks.0.attn.proj").shift
    assert [found.of(f"blocks.{i}.mlp.fc1").shift for i in range(4)] == [True, False, False, True]
    kinds = found.kinds()
    assert [kinds[f"blocks.{i}.attn.qkv"] for i in range(4)] == ["norm", "norm", "norm", "multiply"]
    assert {kinds[f"blocks.{i}.attn.proj"] for i in range(4)} == {"linear"}
    assert {kinds[f"blocks.{i}.mlp.fc1"] for i in range(4)} == {"norm"}
    assert_exact(found)


def test_the_linear_half_of_a_gate_carries_a_scale() -> None:
    found = found_in(tiny_vit(mlp_layer=SwiGLUPacked))
    link = found.of("blocks.0.mlp.fc2")
    assert (link.kind, link.source.name, link.shift) == ("linear", "blocks.0.mlp.fc1", False)
    assert (link.channels, link.start) == (32, 32)  # x1 goes through SiLU, x2 does not
    assert found.of("blocks.0.mlp.fc1").kind == "norm"
    assert_exact(found)


def test_both_layers_of_a_gate_are_readers_of_a_norm() -> None:
    found = found_in(tiny_vit(mlp_layer=SwiGLU))
    assert found.exported.skipped == {}
    link = found.of("blocks.0.mlp.fc1_x")
    assert link is found.of("blocks.0.mlp.fc1_g")
    assert link.kind == "norm"
    assert_exact(found)


class MlpWithBypass(Mlp):
    """A linear layer beside the MLP whose weight is read without calling it: it stays in float."""

    def __init__(self, in_features: int, **arguments: object) -> None:
        super().__init__(in_features, **arguments)
        self.bypass = torch.nn.Linear(in_features, in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.nn.functional.linear(x, self.bypass.weight, self.bypass.bias)


def test_a_norm_that_a_float_layer_reads_too_is_left_alone() -> None:
    found = found_in(tiny_vit(mlp_layer=MlpWithBypass))
    assert "blocks.0.mlp.bypass" in found.exported.skipped
    assert found.of("blocks.0.mlp.fc1").kind == "multiply"
    assert_exact(found)
