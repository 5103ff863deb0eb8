"""Encoders of transformers, as small as their configurations make them: their outputs, tasks and layers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.shared.loaded import LoadedModel
from tools.bench.family import randomize

transformers = pytest.importorskip("transformers", reason="loads models of transformers")

VIT: dict[str, Any] = {
    "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
TEXT = {**VIT, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 8}
BLOCK = {"qkv": 3, "proj": 1, "fc1": 1, "fc2": 1}


def saved(folder: Path, model: str, config: str, **settings: Any) -> tuple[str, torch.nn.Module]:
    torch.manual_seed(0)
    module = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval().requires_grad_(False)
    randomize(module, 0)
    module.save_pretrained(folder)
    return str(folder), module


def opened(name: str, *, outputs: tuple[str, ...] = (), size: tuple[int, int] | None = None) -> LoadedModel:
    images = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3, input_size=size)
    return load_model(ModelOptions(name=name, outputs=outputs), images)


def pixels(loaded: LoadedModel) -> torch.Tensor:
    return torch.randn(2, 3, *loaded.preprocessing.size, generator=torch.Generator().manual_seed(1))


def test_the_pooling_head_of_siglip_has_layers_of_its_own(tmp_path: Path) -> None:
    name, module = saved(tmp_path, "SiglipVisionModel", "SiglipVisionConfig", **VIT)
    loaded = opened(name)
    assert (loaded.task.kind, loaded.task.outputs) == ("embedding", ("pooler_output",))
    images = pixels(loaded)
    torch.testing.assert_close(loaded.module(images), module(images).pooler_output)
    found = export_model(loaded)
    assert Counter(layer.type for layer in found.layers) == {"patch_embed": 1, "qkv": 6, "proj": 2, "fc1": 2, "fc2": 2}
    assert not found.skipped


def test_outputs_can_be_chosen_and_scored_together(tmp_path: Path) -> None:
    name, module = saved(tmp_path, "SiglipVisionModel", "SiglipVisionConfig", **VIT)
    loaded = opened(name, outputs=("last_hidden_state",))
    assert (loaded.task.kind, loaded.task.fallback) == ("features", True)
    loaded = opened(name, outputs=("pooler_output=embedding", "last_hidden_state=features"))
    images = pixels(loaded)
    wanted = module(images)
    torch.testing.assert_close(
        loaded.module(images), torch.cat([wanted.pooler_output, wanted.last_hidden_state.flatten(1)], 1)
    )
    assert [value.name for value in export_model(loaded).model.graph.outputs] == ["pooler_output", "last_hidden_state"]
    with pytest.raises(UsageError, match="has no output 'pooled'; it has: last_hidden_state, pooler_output"):
        opened(name, outputs=("pooled",))


def test_the_image_tower_of_a_model_for_images_and_texts_is_taken(tmp_path: Path) -> None:
    name, module = saved(
        tmp_path, "CLIPModel", "CLIPConfig", vision_config=VIT, text_config=TEXT, projection_dim=8
    )  # fmt: skip
    loaded = opened(name)
    images = pixels(loaded)
    assert (loaded.task.kind, loaded.task.outputs) == ("embedding", ("image_embeds",))
    torch.testing.assert_close(
        loaded.module(images), module.visual_projection(module.vision_model(images).pooler_output)
    )
    assert not any("text" in key for key in loaded.module.state_dict())


def test_a_masked_autoencoder_sees_all_patches(tmp_path: Path) -> None:
    name, module = saved(tmp_path, "ViTMAEModel", "ViTMAEConfig", **VIT)
    loaded = opened(name)
    assert loaded.task.outputs == ("last_hidden_state",)
    images = pixels(loaded)
    module.config.mask_ratio = 0.0
    wanted = module(images, noise=torch.arange(4.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(loaded.module(images), wanted)


def test_a_timm_model_in_a_folder_of_transformers_keeps_its_own_images(tmp_path: Path) -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 1}
    name, _ = saved(
        tmp_path, "TimmWrapperForImageClassification", "TimmWrapperConfig", architecture="vit_tiny_patch16_224",
        num_labels=4, model_args=arguments,
    )  # fmt: skip
    loaded = load_model(ModelOptions(name=name), ImageOptions())
    assert (loaded.preprocessing.size, loaded.preprocessing.mean) == ((32, 32), (0.5, 0.5, 0.5))
    assert (loaded.task.kind, loaded.identity.num_classes) == ("classification", 4)


def test_patches_of_images_of_any_size_are_refused_with_the_reason(tmp_path: Path) -> None:
    settings = {key: value for key, value in VIT.items() if key != "image_size"}
    name, _ = saved(tmp_path, "Siglip2VisionModel", "Siglip2VisionConfig", num_patches=16, **settings)
    with pytest.raises(LampqError, match="spatial_shapes says how many each image has") as error:
        opened(name, size=(32, 32))
    assert "naflex" in (error.value.hint or "")


def test_depth_is_a_map_of_numbers_and_its_size_is_that_of_the_backbone(tmp_path: Path) -> None:
    name, module = saved(
        tmp_path, "DPTForDepthEstimation", "DPTConfig", **{**VIT, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=4,
    )  # fmt: skip
    loaded = opened(name)
    assert (loaded.task.kind, loaded.task.outputs) == ("dense-regression", ("predicted_depth",))
    images = pixels(loaded)
    torch.testing.assert_close(loaded.module(images), module(images).predicted_depth)
