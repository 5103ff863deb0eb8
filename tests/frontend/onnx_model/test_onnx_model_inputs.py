"""Files of old opsets, with open sizes, pixels or channels last as input, and with merged constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from tests.frontend.onnx_model.exports import SHAPE, SeparateAttention, SeparateViT, by_torchscript

HALF = (0.5, 0.5, 0.5)
IMAGES = ImageOptions(mean=HALF, std=HALF)
KINDS = ["patch_embed", "qkv", "proj", "fc1", "fc2", "head"]
"""Query, key and value are joined."""


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, *SHAPE), generator=torch.Generator().manual_seed(0)).float()


class OldAttention(SeparateAttention):
    """Without operators that old opsets lack."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, tokens, width = x.shape
        value, key, query = (
            layer(x).reshape(count, tokens, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.value, self.key, self.query)
        )
        scores = (query @ key.transpose(-1, -2)) / (width // self.heads) ** 0.5
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(count, tokens, width))


def old_vit() -> SeparateViT:
    model = SeparateViT()
    attention = OldAttention(16, 2)
    attention.load_state_dict(model.attention.state_dict())
    model.attention = attention
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("opset", [9, 12])
def test_an_old_opset_is_converted_and_computes_the_same(opset: int, tmp_path: Path, pixels: torch.Tensor) -> None:
    model = old_vit()
    path = by_torchscript(model, tmp_path / "old.onnx", opset)
    assert onnx.load(path).opset_import[0].version == opset
    loaded = load_onnx(path, IMAGES)
    assert loaded.source is not None
    assert loaded.source.changes["opset raised"] == 1
    assert sorted(layer.type for layer in loaded.source.layers) == sorted(KINDS)
    images = pixels / 255
    torch.testing.assert_close(loaded.module(images), model(images), rtol=1e-4, atol=1e-5)


def test_opsets_that_onnxruntime_does_not_run_are_refused(tmp_path: Path) -> None:
    path = by_torchscript(old_vit(), tmp_path / "old.onnx", 9)
    proto = onnx.load(path)
    proto.opset_import[0].version = 6
    onnx.save(proto, path)
    with pytest.raises(LampqError, match="has opset 6, and 7 to 23 are supported"):
        load_onnx(path, IMAGES)


class Pixels(torch.nn.Module):
    """Normalizes uint8 pixels itself, and asks how many there are; `last` takes them with channels last."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.vit, self.last = SeparateViT(), last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        added = torch.full((images.shape[0], 1), 0.5)
        if self.last:
            images = images.permute(0, 3, 1, 2)
        return self.vit((images.float() / 255 - 0.5) / 0.5) + added


@pytest.mark.parametrize("last", [False, True])
def test_pixels_and_channels_last_become_images(last: bool, tmp_path: Path, pixels: torch.Tensor) -> None:
    model = Pixels(last=last).eval()
    given = (pixels.permute(0, 2, 3, 1) if last else pixels).to(torch.uint8)
    path = tmp_path / "pixels.onnx"
    torch.onnx.export(
        model, (given,), path, dynamo=False, opset_version=17, input_names=["images"], output_names=["scores"],
        dynamic_axes={"images": {0: "n"}},
    )  # fmt: skip
    loaded = load_onnx(path, ImageOptions())
    assert loaded.preprocessing.size == SHAPE[1:]
    raw = np.random.default_rng(1).integers(0, 256, (*SHAPE[1:], 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        loaded.preprocessing.normalize(raw[None])[0], raw.transpose(2, 0, 1).astype(np.float32)
    )
    torch.testing.assert_close(loaded.module(pixels), model(given), rtol=1e-4, atol=1e-5)
    assert loaded.source is not None
    assert sorted(layer.type for layer in loaded.source.layers) == sorted(KINDS)
    written = loaded.source.write().graph.inputs
    assert [(value.name, value.dtype) for value in written] == [("images", ir.DataType.FLOAT)]
    with pytest.raises(UsageError, match="uint8 pixels, which the graph normalizes itself"):
        load_onnx(path, IMAGES)


def test_an_open_height_and_width_are_given(tmp_path: Path) -> None:
    model, path = SeparateViT(), tmp_path / "open.onnx"
    torch.onnx.export(
        model, (torch.zeros(1, 3, 16, 16),), path, dynamo=False, opset_version=17, input_names=["images"],
        output_names=["scores"], dynamic_axes={"images": {0: "n", 2: "h", 3: "w"}},
    )  # fmt: skip
    with pytest.raises(UsageError, match="takes images of any size") as error:
        load_onnx(path, IMAGES)
    assert "--input-size" in (error.value.hint or "")
    loaded = load_onnx(path, IMAGES.model_copy(update={"input_size": (8, 24)}))
    images = torch.randn(2, 3, 8, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module(images), model(images), rtol=1e-4, atol=1e-5)
    fixed = by_torchscript(model, tmp_path / "fixed.onnx", 17)
    with pytest.raises(UsageError, match=r"takes images of 16x16 pixels .* and --input-size is 8x24"):
        load_onnx(fixed, IMAGES.model_copy(update={"input_size": (8, 24)}))


def test_a_merged_constant_names_no_layer(tmp_path: Path) -> None:
    """torch's old exporter keeps only the first of equal biases, under its name."""
    model = SeparateViT()

    def names() -> set[str]:
        source = load_onnx(by_torchscript(model, tmp_path / "plain.onnx", 17), IMAGES).source
        assert source is not None
        return {layer.name for layer in source.layers}

    wanted = names()
    size = len(onnx.load(tmp_path / "plain.onnx").graph.initializer)
    for layer in (model.attention.out, model.narrow, model.attention.value, model.patches):
        layer.bias.zero_()
    assert names() == wanted
    assert len(onnx.load(tmp_path / "plain.onnx").graph.initializer) < size
