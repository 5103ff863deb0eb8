"""Folders of transformers and of timm: loaded by what they hold, whatever their class is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.opening import load_model

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3, "resample": 2,
}  # fmt: skip


def saved(model, folder: Path) -> str:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return str(folder)


def opened(name: str, **options: object):
    return load_model(ModelOptions(name=name, **options), ImageOptions())


@pytest.mark.parametrize(
    ("kind", "output", "task", "classes"),
    [
        ("ViTForImageClassification", "logits", "classification", 4),
        ("DeiTForImageClassificationWithTeacher", "logits", "classification", 4),
        ("ViTModel", "pooler_output", "embedding", 0),
        ("Dinov2Model", "pooler_output", "embedding", 0),
        ("YolosForObjectDetection", "logits", "detection", 4),
    ],
)
def test_the_task_is_told_by_the_outputs(kind: str, output: str, task: str, classes: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    own = getattr(transformers, kind)
    config = own.config_class(**{**SMALL, **({"image_size": [16, 16]} if "Yolos" in kind else {})}, num_labels=4)
    model = own(config).eval()
    loaded = opened(saved(model, tmp_path / "model"))
    assert loaded.task.kind == task
    assert loaded.task.outputs[0] == output
    assert loaded.identity.num_classes == classes
    images = noise(loaded.preprocessing, model)
    with torch.no_grad():
        wanted = getattr(model(images), output)
        found = loaded.module(images)
    torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_known_task_gives_features_and_one_without_images_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SMALL, encoder_stride=4))
    assert opened(saved(model, tmp_path / "masked")).task.kind == "features"
    vision = {**SMALL, "num_patches": 16}
    del vision["image_size"]
    patches = transformers.Siglip2ForImageClassification(transformers.Siglip2Config(vision_config=vision, num_labels=4))
    with pytest.raises(LampqError, match="takes patches of images of any size"):
        opened(saved(patches, tmp_path / "patches"))


def test_weights_that_would_be_random_are_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    place = saved(transformers.ViTModel(transformers.ViTConfig(**SMALL)), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({**config, "architectures": ["ViTForImageClassification"]})
    )
    with pytest.raises(LampqError, match=r"lacks .* weights of a ViTForImageClassification: classifier"):
        opened(place)
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(LampqError, match=r"is a NoSuchModel, which transformers .* does not have"):
        opened(place)


TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 4}


@pytest.fixture
def timm_folder(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
    save_for_hf(model, tmp_path / "mine", model_args=TINY, safe_serialization=True)
    return tmp_path / "mine", model


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_of_timm_is_loaded_through_timm(prefix: str, timm_folder: tuple[Path, torch.nn.Module]) -> None:
    folder, model = timm_folder
    for pretrained in (False, True):
        loaded = opened(f"{prefix}{folder}", pretrained=pretrained)
        assert (loaded.identity.name, loaded.identity.num_classes) == ("mine", 4)
        with torch.no_grad():
            images = noise(loaded.preprocessing, model)
            torch.testing.assert_close(loaded.module(images), model(images))


def test_other_weights_can_be_put_into_the_architecture_of_a_folder(
    timm_folder: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    folder, model = timm_folder
    with torch.no_grad():
        model.head.weight.mul_(2)
    torch.save(model.state_dict(), tmp_path / "other.pth")
    loaded = opened(str(folder), checkpoint=tmp_path / "other.pth")
    with torch.no_grad():
        images = noise(loaded.preprocessing, model)
        torch.testing.assert_close(loaded.module(images), model(images))


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(LampqError, match=r"holds no config\.json"):
        opened(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_tiny_patch16_224").mkdir()  # of results, called like the model
    with pytest.raises(UsageError, match="say where the weights of vit_tiny_patch16_224 come from"):
        opened("vit_tiny_patch16_224")


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match=r"holds no config\.json"):
        opened(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')
    with pytest.raises(LampqError, match="is not one of timm"):
        opened(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "no_such_model", "pretrained_cfg": {}}')
    with pytest.raises(LampqError, match=r"no_such_model, which timm .* does not know"):
        opened(str(tmp_path))
    with pytest.raises(UsageError, match="is a name on the hub"):
        opened("hf-hub:owner/model")
    with pytest.raises(UsageError, match="is a name on the hub"):
        opened("hf-hub:owner/model", checkpoint=tmp_path / "weights.pth")
