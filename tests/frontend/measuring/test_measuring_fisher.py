"""Fisher traces against per-sample gradients of torch.func."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.likelihoods.classification import sampled_labels
from lampq_onnx.frontend.measuring.fisher import fisher_traces, squared_gradient_norms
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from tests.frontend.tiny_models import images, layers_of, tiny_vit


def per_sample_norms(model: torch.nn.Module, batch: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """|d loss_n / d W|^2 for every parameter, the slow way."""
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(model, values, (image[None],)), label[None])

    grads = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, batch, labels)
    return {name: value.flatten(1).square().sum(1) for name, value in grads.items()}


@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(3, 40, 50), (60, 4, 5), (1, 7, 3), (5, 1, 1)])
def test_squared_norms_both_ways(tokens: int, d_in: int, d_out: int) -> None:
    """Many tokens take the d_out x d_in product, few tokens the Gram products."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, tokens, d_in, generator=generator)
    g = torch.randn(6, tokens, d_out, generator=generator)
    expected = [torch.einsum("to,ti->oi", g[n], x[n]).square().sum() for n in range(6)]
    torch.testing.assert_close(squared_gradient_norms(x, g), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_traces_match_torch_func_for_every_layer() -> None:
    model = tiny_vit()
    layers = layers_of(model)
    assert {layer.type for layer in layers} == {"patch_embed", "qkv", "proj", "fc1", "fc2", "head"}
    data = images(7)
    batches = [(torch.from_numpy(b.images), torch.from_numpy(b.labels)) for b in data.batches(3)]
    traces = fisher_traces(model, layers, batches)
    norms = per_sample_norms(model, torch.from_numpy(data.images), torch.from_numpy(data.labels))
    for layer in layers:
        expected = float(norms[f"{layer.name}.weight"].mean())
        assert traces[layer.name] == pytest.approx(expected, rel=2e-4), layer.name


def test_sampled_labels_follow_the_seed_and_the_softmax() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(20_000, 1)
    first = sampled_labels(logits, torch.Generator().manual_seed(1))
    again = sampled_labels(logits, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    shares = torch.bincount(first, minlength=3) / len(first)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), atol=0.02, rtol=0)


def test_sampled_traces_are_those_of_the_sampled_labels() -> None:
    model = tiny_vit()
    layers = layers_of(model)
    batch = torch.from_numpy(images(8).images)
    labels = sampled_labels(model(batch), torch.Generator().manual_seed(5))
    given = fisher_traces(model, layers, [(batch, labels)])
    sampled = fisher_traces(model, layers, [(batch, None)], seed=5)
    assert sampled == pytest.approx(given)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_vit()
    layers = layers_of(model)
    fisher_traces(model, layers, [(torch.from_numpy(images(2).images), None)])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_no_images_is_an_error() -> None:
    model = tiny_vit()
    with pytest.raises(LampqError, match="no calibration images"):
        fisher_traces(model, layers_of(model), [])


def test_windows_count_to_their_image() -> None:
    """Swin's layers see (images * windows, tokens, width); a trace is per image all the same."""
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=4,
    )  # fmt: skip
    model = model.eval().requires_grad_(False)
    layers = [ModelLayer(n, "qkv", m, False) for n, m in model.named_modules() if n.endswith("qkv")]
    generator = torch.Generator().manual_seed(0)
    batch, labels = torch.randn(3, 3, 32, 32, generator=generator), torch.tensor([0, 3, 1])
    traces = fisher_traces(model, layers, [(batch, labels)])
    expected = dict.fromkeys(traces, 0.0)
    for layer in layers:
        layer.module.weight.requires_grad_(True)
    for image, label in zip(batch, labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        for layer, grad_ in zip(layers, torch.autograd.grad(loss, [u.module.weight for u in layers]), strict=True):
            expected[layer.name] += float(grad_.square().sum()) / 3
    assert traces == pytest.approx(expected, rel=1e-3)
