"""Joined biases and folded batch norms: the same function, in layers that everything else can read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.attention import FourDimensionalAttention, separate
from lampq_onnx.frontend.models.rewrites import rewrite
from tests.frontend.tiny_models import pixels, tiny_vit
from tools.bench.family import randomize

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "depth": 1, "num_classes": 4}


class Convolutions(torch.nn.Module):
    """A batch norm behind a convolution, one with an activation inside, and one that is not alone in reading."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first_norm = BatchNormAct2d(8)
        self.second = torch.nn.Conv2d(8, 4, 1)
        self.second_norm = torch.nn.BatchNorm2d(4, affine=False)
        self.last = torch.nn.Linear(4, 5, bias=False)
        self.last_norm = torch.nn.BatchNorm1d(5)
        self.shared = shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first_norm(self.first(x)))
        x = self.second_norm(x) + x if self.shared else self.second_norm(x)
        x = self.last(x.flatten(2).mT)
        return self.last_norm(x.flatten(0, 1)).reshape_as(x).mean(1)


def made(module: torch.nn.Module) -> torch.nn.Module:
    randomize(module.eval().requires_grad_(False), 0)
    return module


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("size", [None, 12])
def test_separate_layers_of_attention_compute_the_same(batch_first: bool, size: int | None) -> None:
    torch.manual_seed(0)
    joint = torch.nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=size, vdim=size).eval()
    torch.nn.init.normal_(joint.in_proj_bias)
    apart = separate(joint)
    assert apart is not None
    query, key = torch.randn(3, 4, 8), torch.randn(3, 5, size or 8)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    hidden = torch.rand(4, 5) > 0.7
    hidden[:, 0] = False
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    cases: tuple[dict[str, Any], ...] = (
        {}, {"attn_mask": hidden}, {"attn_mask": torch.randn(6, 4, 5)}, {"key_padding_mask": padding},
        {"need_weights": False}, {"average_attn_weights": False},
    )  # fmt: skip
    for case in cases:
        wanted, found = joint(query, key, key, **case), apart(query, key, key, **case)
        torch.testing.assert_close(found[0], wanted[0])
        assert (found[1] is None) == (wanted[1] is None)
        if wanted[1] is not None:
            torch.testing.assert_close(found[1], wanted[1])


def test_torch_s_own_encoder_layer_calls_the_separate_layers() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    rows = torch.randn(2, 4, 8)
    wanted = layer(rows)
    assert rewrite(layer, "layer", rows) == {"attention in separate layers": 1}
    calls: list[torch.Tensor] = []
    layer.self_attn.q_proj.register_forward_hook(lambda _, __, output: calls.append(output))  # type: ignore[union-attr]
    torch.testing.assert_close(layer(rows), wanted)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_the_bias_of_qkv_is_one_vector_and_its_module_is_called(name: str) -> None:
    model = made(timm.create_model(name, **TINY))
    attention = model.blocks[0].attn
    parts = [attention.q_bias.clone(), torch.zeros_like(attention.q_bias), attention.v_bias.clone()]
    called: list[torch.Tensor] = []
    attention.qkv.register_forward_hook(lambda _, __, output: called.append(output))
    wanted = model(pixels(2))
    assert not called
    assert rewrite(model, name, pixels(2)) == {"joined qkv biases": 1}
    called.clear()
    torch.testing.assert_close(model(pixels(2)), wanted)
    assert len(called) == 1
    assert torch.equal(attention.qkv.bias, torch.cat(parts))


def test_batch_norms_go_into_the_layers_before_them() -> None:
    model = made(Convolutions())
    wanted = model(pixels(3))
    assert rewrite(model, "made", pixels(2)) == {"folded batch norms": 3}
    torch.testing.assert_close(model(pixels(3)), wanted, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for part in model.modules())
    assert isinstance(model.first_norm[0], torch.nn.ReLU)
    assert not model.first_norm[0].inplace
    assert not any(p.requires_grad for p in model.parameters())


def test_a_batch_norm_stays_where_something_else_reads_what_it_normalizes() -> None:
    model = made(Convolutions(shared=True))
    wanted = model(pixels(3))
    assert rewrite(model, "shared", pixels(2)) == {"folded batch norms": 2}
    torch.testing.assert_close(model(pixels(3)), wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(model.second_norm, torch.nn.BatchNorm2d)


def test_a_model_that_computes_something_else_then_is_refused() -> None:
    class ReadsWeights(Convolutions):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.second.weight.sum()

    with pytest.raises(LampqError, match=r"reader computes something else after .* the outputs change by"):
        rewrite(made(ReadsWeights()), "reader", pixels(2))


def test_other_models_stay_as_they_are() -> None:
    model = tiny_vit()
    before = copy.deepcopy(model.state_dict())
    assert rewrite(model, "tiny", pixels(2)) == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_over_windows_is_that_of_each_window(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 4, 5, 6, generator=generator) for _ in range(2))
    value = torch.randn(2, 3, 4, 5, 7, generator=generator)
    with FourDimensionalAttention():
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    scores = query.double() @ key.double().mT / 6**0.5
    if causal:
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(found.double(), scores.softmax(-1) @ value.double(), rtol=1e-5, atol=1e-5)
