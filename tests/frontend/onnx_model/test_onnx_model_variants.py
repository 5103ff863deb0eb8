"""One function written in many ways gives one model; other architectures give the layers that they have."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import Exported
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.matching import fit_plan
from lampq_onnx.importer import import_model
from tests.frontend.onnx_model import exports, rewrites
from tests.frontend.onnx_model.exports import SeparateAttention, SeparateViT
from tests.frontend.onnx_model.test_onnx_model_plans import plan_of
from tests.frontend.tiny_models import layers_of, pixels, tiny_vit
from tools.bench import exporters

HALVES = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)
PLAIN = ["patch_embed", "qkv", "proj", "fc1", "fc2", "head"]

REWRITES = [
    function
    for name, function in inspect.getmembers(rewrites, inspect.isfunction)
    if function.__module__ == rewrites.__name__ and not name.startswith("_")
]


def close(loaded: LoadedModel, model: torch.nn.Module, bound: float = 1e-5) -> bool:
    with torch.no_grad():
        found, wanted = loaded.module(pixels(3)), model(pixels(3))
    return float((found - wanted).norm() / wanted.norm()) < bound


def kinds(exported: Exported) -> list[str]:
    return [layer.type for layer in exported.layers]


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda function: function.__name__)
def test_a_graph_written_in_another_way_is_the_same_model(
    rewrite: rewrites.Rewrite, torchscript_file: Path, tmp_path: Path
) -> None:
    graph = ir.load(torchscript_file)
    before = ir.to_proto(graph).SerializeToString()
    rewrite(graph)
    assert ir.to_proto(graph).SerializeToString() != before
    ir.save(graph, tmp_path / "other.onnx")
    loaded = load_onnx(tmp_path / "other.onnx", HALVES)
    half = rewrite is rewrites.weights_in_half_precision
    assert close(loaded, tiny_vit(), 1e-2 if half else 1e-5)
    exported = export_model(loaded)
    own = layers_of(tiny_vit())
    assert kinds(exported) == [layer.type for layer in own]
    assert exported.skipped == {}
    assert len(loaded.module.transformer_blocks) == 2
    for layer, other in zip(exported.layers, own, strict=True):
        wanted = other.matrix()
        if half and layer.type in PLAIN[1:5]:
            wanted = wanted.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(layer.matrix(), wanted)
        assert layer.module.bias is not None
        torch.testing.assert_close(layer.module.bias.data, other.module.bias.data)


@pytest.mark.parametrize("opset", range(13, 21))
def test_files_of_the_old_exporter(opset: int, tmp_path: Path) -> None:
    model = SeparateViT()  # timm's attention needs opset 14
    loaded = load_onnx(exports.by_torchscript(model, tmp_path / "old.onnx", opset), HALVES)
    assert close(loaded, model)
    assert kinds(export_model(loaded)) == PLAIN


@pytest.mark.parametrize("opset", [21, 22])
def test_files_of_the_present_exporter(opset: int, tmp_path: Path) -> None:
    loaded = load_onnx(exports.by_dynamo(tiny_vit(), tmp_path / "new.onnx", opset), HALVES)
    assert close(loaded, tiny_vit())
    assert kinds(export_model(loaded)) == [layer.type for layer in layers_of(tiny_vit())]


@pytest.mark.parametrize("opset", [14, 18])
def test_a_model_of_transformers_has_the_layers_of_timms(opset: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = exporters.transformers_vit(tiny_vit(), exports.SHAPE)
    write = exports.by_dynamo if opset >= 18 else exports.by_torchscript
    loaded = load_onnx(write(model, tmp_path / "hub.onnx", opset), HALVES)
    assert close(loaded, tiny_vit())
    for layer, other in zip(export_model(loaded).layers, layers_of(tiny_vit()), strict=True):
        assert layer.type == other.type
        np.testing.assert_array_equal(layer.matrix(), other.matrix())


def test_a_weight_that_two_layers_share_is_two_layers(tmp_path: Path) -> None:
    model = tiny_vit()
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    loaded = load_onnx(exports.by_torchscript(model, tmp_path / "tied.onnx", 17), HALVES)
    assert close(loaded, model)
    exported = export_model(loaded)
    first, second = (layer for layer in exported.layers if layer.type == "fc1")
    assert first.name != second.name
    assert first.module is not second.module
    np.testing.assert_array_equal(first.matrix(), second.matrix())
    bare = exports.without_names(tmp_path / "tied.onnx", tmp_path / "bare.onnx")
    fitted = fit_plan(import_model(bare).model, plan_of(model))
    assert len(set(fitted.renamed.values())) == 10


class Variant(SeparateViT):
    """`SeparateViT` with another attention, MLP or patches."""

    def __init__(self, attention: str = "", mlp: str = "", patches: str = "") -> None:
        super().__init__()
        self.attention = Attention(attention)
        self.gate = torch.nn.Linear(16, 32)
        self.kind, self.cut = mlp, patches
        self.linear = torch.nn.Linear(48, 16)
        self.wide_conv, self.narrow_conv = torch.nn.Conv2d(16, 32, 1), torch.nn.Conv2d(32, 16, 1)
        self.padded = torch.nn.Conv2d(3, 16, 7, 4, 3)
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.tokens(images)
        x = x + self.attention(self.before(x))
        x = x + self.mlp(self.after(x))
        return self.classifier(self.last(x).mean(1))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        if self.cut == "linear":
            cells = images.unflatten(2, (4, 4)).unflatten(4, (4, 4)).permute(0, 2, 4, 1, 3, 5)
            return self.linear(cells.flatten(3).flatten(1, 2))
        if self.cut == "normalized inside":
            images = (images - 0.25) / 0.5
        layer = self.padded if self.cut == "padded" else self.patches
        return layer(images).flatten(2).transpose(1, 2)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "swiglu":
            return self.narrow(functional.silu(self.gate(x)) * self.wide(x))
        if self.kind == "1x1 convolutions":
            image = x.transpose(1, 2).unflatten(2, (4, 4))
            return self.narrow_conv(functional.gelu(self.wide_conv(image))).flatten(2).transpose(1, 2)
        if self.kind == "quick gelu":
            hidden = self.wide(x)
            return self.narrow(hidden * torch.sigmoid(1.702 * hidden))
        return self.narrow(functional.gelu(self.wide(x)))


class Attention(SeparateAttention):
    def __init__(self, kind: str) -> None:
        super().__init__(16, 2)
        self.kind = kind
        self.mask = torch.triu(torch.full((16, 16), -1e9), 1)
        self.on_query = torch.nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).unflatten(-1, (2, 8)) for layer in (self.query, self.key, self.value))
        if self.kind == "einsum":
            weights = torch.einsum("bqhd,bkhd->bhqk", query, key).softmax(-1)
            return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if self.kind == "causal":
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            return self.out(mixed.transpose(1, 2).flatten(2))
        if self.kind == "normalized queries":
            query = self.on_query(query)
        scores = query @ key.transpose(-1, -2)
        if self.kind == "mask":
            scores = scores + self.mask
        if self.kind == "relu":
            weights = scores.relu() / 16
        elif self.kind == "softmax in parts":
            powers = torch.exp(scores - scores.amax(-1, keepdim=True))
            weights = powers / powers.sum(-1, keepdim=True)
        else:
            weights = scores.softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


VARIANTS: dict[str, tuple[dict[str, str], list[str]]] = {
    **{
        f"attention: {kind}": ({"attention": kind}, PLAIN)
        for kind in ("einsum", "mask", "causal", "normalized queries", "relu", "softmax in parts")
    },
    "swiglu": ({"mlp": "swiglu"}, ["patch_embed", "qkv", "proj", "fc1", "fc1", "fc2", "head"]),
    "quick gelu": ({"mlp": "quick gelu"}, PLAIN),
    "1x1 convolutions": ({"mlp": "1x1 convolutions"}, PLAIN),
    "patches: linear": ({"patches": "linear"}, PLAIN),
    "patches: normalized inside": ({"patches": "normalized inside"}, PLAIN),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_of_other_architectures(variant: str, tmp_path: Path) -> None:
    arguments, layers = VARIANTS[variant]
    model = Variant(**arguments)
    path = exports.by_torchscript(model, tmp_path / "variant.onnx", 17)
    loaded = load_onnx(path, HALVES)
    assert close(loaded, model)
    exported = export_model(loaded)
    assert kinds(exported) == layers
    assert exported.skipped == {}


def test_overlapping_patches_stay_in_float_with_a_reason(tmp_path: Path) -> None:
    model = Variant(patches="padded")
    loaded = load_onnx(exports.by_torchscript(model, tmp_path / "variant.onnx", 17), HALVES)
    assert close(loaded, model)
    assert export_model(loaded).skipped == {"padded": "its patches overlap, are padded, or do not cover the image"}


def test_weights_on_the_left_stay_in_float_with_a_reason(torchscript_file: Path, tmp_path: Path) -> None:
    model = ir.load(torchscript_file)
    graph = model.graph
    layer = next(layer for layer in find_layers(graph) if layer.type == "proj")
    weight = add_constant(graph, "left", layer.matrix())
    turned = ir.node("Transpose", [layer.input], {"perm": [0, 2, 1]})
    product = ir.node("MatMul", [weight, turned.outputs[0]], name="odd")
    back = ir.node("Transpose", [product.outputs[0]], {"perm": [0, 2, 1]})
    graph.insert_before(layer.node, [turned, product, back])
    layer.node.outputs[0].replace_all_uses_with(back.outputs[0])
    graph.remove(layer.node, safe=True)
    ir.save(model, tmp_path / "left.onnx")
    loaded = load_onnx(tmp_path / "left.onnx", HALVES)
    assert close(loaded, tiny_vit())
    exported = export_model(loaded)
    assert len(exported.layers) == 9
    assert exported.skipped == {"odd": "its weights are the left operand"}
