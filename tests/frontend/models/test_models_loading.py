"""Models and checkpoints, good and bad."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import safetensors.torch
import torch

from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.checkpoints.contents import read_checkpoint
from lampq_onnx.frontend.models.checkpoints.shapes import guess_vit_arguments
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.loading import load_timm
from lampq_onnx.frontend.models.rewrites import rewrite
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.shared.loaded import weights_hash
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model as load_onnx
from lampq_onnx.graph.model_file import save_model
from tests.frontend.tiny_models import images, loaded, pixels, tiny_vit

ARGS = {"img_size": 16, "patch_size": 4, "num_classes": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tiny_vit().state_dict(), path)
    return path


def test_safetensors_and_nested_torch_files_give_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    nested = tmp_path / "model.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tiny_vit().state_dict().items()}}, nested)
    first = load_timm(NAME, checkpoint=checkpoint, model_args=ARGS)
    second = load_timm(NAME, checkpoint=nested, model_args=ARGS)
    assert first.identity == second.identity
    assert first.identity.num_classes == 4
    assert first.identity.weights_sha256 == weights_hash(tiny_vit())
    assert first.identity.weights_sha256 != weights_hash(tiny_vit(seed=1))
    assert not any(p.requires_grad for p in first.module.parameters())
    assert first.preprocessing.size == (16, 16)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match=r"no such checkpoint: .*gone\.safetensors"):
        load_timm(NAME, checkpoint=tmp_path / "gone.safetensors", model_args=ARGS)


@pytest.mark.parametrize("keep", [0, 1, 100, 3000])
def test_a_truncated_checkpoint(checkpoint: Path, tmp_path: Path, keep: int) -> None:
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"cut{suffix}"
        if suffix == ".pth":
            torch.save(tiny_vit().state_dict(), path)
            path.write_bytes(path.read_bytes()[:keep])
        else:
            path.write_bytes(checkpoint.read_bytes()[:keep])
        with pytest.raises(LampqError, match=r"cut\.(safetensors|pth) cannot be read"):
            read_checkpoint(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(LampqError, match=r"evil\.pth cannot be read"):
        read_checkpoint(path)
    torch.save({"weight": torch.zeros(2), "x": Payload()}, path)
    with pytest.raises(LampqError, match=r"evil\.pth cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_architecture_says_what_it_is(checkpoint: Path) -> None:
    with pytest.raises(LampqError, match="does not fit vit_tiny_patch16_224") as caught:
        load_timm(NAME, checkpoint=checkpoint)
    for word in ("img_size=16", "patch_size=4", "embed_dim=16", "depth=2", "num_classes=4", "num_heads"):
        assert word in caught.value.hint


def test_guesses_only_for_vits() -> None:
    assert guess_vit_arguments({"conv1.weight": torch.zeros(3, 3, 3, 3)}) == {}
    assert guess_vit_arguments(tiny_vit().state_dict())["mlp_ratio"] == 4.0


def test_an_unknown_model_names_near_ones(checkpoint: Path) -> None:
    with pytest.raises(LampqError, match="no model 'deit_tiny_patch16_22'") as caught:
        load_timm("deit_tiny_patch16_22", checkpoint=checkpoint)
    assert "deit_tiny_patch16_224" in caught.value.hint


def test_weights_must_be_named_once(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="--checkpoint FILE or --pretrained"):
        load_timm(NAME)
    with pytest.raises(UsageError):
        load_timm(NAME, checkpoint=checkpoint, pretrained=True)
    with pytest.raises(UsageError, match="embedded"):
        load_model(ModelOptions(name="digits", checkpoint=checkpoint), ImageOptions())
    with pytest.raises(UsageError, match="--checkpoint-key names a part of a checkpoint"):
        load_model(ModelOptions(name=NAME, pretrained=True, checkpoint_key="teacher"), ImageOptions())


def test_bad_weights_and_arguments(tmp_path: Path) -> None:
    model = tiny_vit()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] = float("inf")
    path = tmp_path / "inf.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    with pytest.raises(LampqError, match=r"blocks\.0\.mlp\.fc1\.weight .*infinity"):
        load_timm(NAME, checkpoint=path, model_args=ARGS)
    with pytest.raises(LampqError, match="timm cannot create"):
        load_timm(NAME, checkpoint=path, model_args={"no_such_argument": 1})
    with pytest.raises(UsageError, match="device cuda:99"):
        load_model(ModelOptions(name="digits", device="cuda:99"), ImageOptions())


def test_the_export_is_the_model_and_keeps_its_interface(tmp_path: Path) -> None:
    model = tiny_vit()
    exported = export_model(loaded(model))
    path = tmp_path / "float.onnx"
    save_model(exported.model, path)
    session = ort.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == ["input"]
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]
    for count in (1, 5):
        batch = images(count).images
        expected = model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"input": batch})[0], expected, rtol=1e-4, atol=1e-5)
    facts = read_metadata(load_onnx(path), path)
    assert (facts.name, facts.num_classes) == ("tiny", 4)
    assert facts.preprocessing == loaded(model).preprocessing


def test_layers_in_order_with_types_and_no_traces_of_this_machine() -> None:
    exported = export_model(loaded(tiny_vit()))
    names = [(layer.name, layer.type) for layer in exported.layers]
    block = [("attn.qkv", "qkv"), ("attn.proj", "proj"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2")]
    expected = [("patch_embed.proj", "patch_embed")]
    expected += [(f"blocks.{i}.{name}", kind) for i in range(2) for name, kind in block]
    assert names == [*expected, ("head", "head")]
    assert exported.skipped == {}
    text = ir.to_proto(exported.model).SerializeToString()
    assert b"site-packages" not in text
    assert b"stack_trace" not in text


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 1e-3}),
        ("deit3_small_patch16_224", {}),
    ],
)
def test_variants_of_the_plain_vit(name: str, changes: dict[str, object]) -> None:
    import timm

    model = timm.create_model(
        name, img_size=16, patch_size=4, num_classes=4, embed_dim=16, depth=2, num_heads=2, **changes
    )
    layers = export_model(loaded(model.eval().requires_grad_(False))).layers
    types = [layer.type for layer in layers if not layer.fixed]
    assert types == ["qkv", "proj", "fc1", "fc2"] * 2
    assert layers[0].type == "patch_embed"
    assert layers[-1].type == "head"


def test_a_convolutional_network_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(4))
    model(torch.zeros(1, 3, 16, 16))
    fake = loaded(tiny_vit())
    subject = type(fake)(model.eval(), fake.preprocessing, fake.identity)
    with pytest.raises(LampqError, match="no attention layers"):
        export_model(subject)


def test_a_weight_that_is_read_without_its_module_stays_in_float() -> None:
    class Direct(torch.nn.Linear):
        """Computes without being called, as some attention layers do with their qkv."""

    model = tiny_vit()
    attention = model.blocks[0].attn
    qkv = attention.qkv

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Direct(qkv.in_features, qkv.out_features)
            self.inner.load_state_dict(qkv.state_dict())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.inner.weight, self.inner.bias)

    attention.qkv = Reader().requires_grad_(False)
    exported = export_model(loaded(model))
    names = [layer.name for layer in exported.layers]
    assert not any("blocks.0.attn.qkv" in name for name in names)
    assert "blocks.1.attn.qkv" in names
    assert any("blocks.0.attn.qkv" in name for name in exported.skipped)


def test_layers_that_do_not_read_the_images_stay_in_float() -> None:
    """SwinV2 computes its position bias by an MLP over a table, the same for every batch."""
    import timm

    model = timm.create_model(
        "swinv2_tiny_window8_256",
        img_size=16, patch_size=4, window_size=4, embed_dim=8, depths=(2,), num_heads=(2,), num_classes=4,
    )  # fmt: skip
    rewrite(model.eval().requires_grad_(False), "swinv2", pixels(2))
    exported = export_model(loaded(model))
    assert exported.layers
    assert not any("cpb_mlp" in layer.name for layer in exported.layers)


def test_an_overlapping_patch_embedding_stays_in_float() -> None:
    model = tiny_vit()
    model.patch_embed.proj = torch.nn.Conv2d(3, 16, 6, stride=4, padding=1).requires_grad_(False)
    exported = export_model(loaded(model))
    assert "patch_embed.proj" in exported.skipped
    assert "patch_embed" not in {layer.type for layer in exported.layers}
