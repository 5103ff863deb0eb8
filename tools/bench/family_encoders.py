"""Define the rows of encoders of transformers: configurations as small as their classes allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip

_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip

_DINO: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
}  # fmt: skip

_DEPTH_DINO: dict[str, Any] = {
    **_DINO, "num_hidden_layers": 4, "model_type": "dinov2", "out_indices": [1, 2, 3, 4], "apply_layernorm": True,
    "reshape_hidden_states": False,
}  # fmt: skip

_SAM: dict[str, Any] = {
    **VIT, "patch_size": 8, "output_channels": 32, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 128,
}  # fmt: skip

_HIERA: dict[str, Any] = {
    "hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [4, 2, 4, 2], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}  # fmt: skip

_SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32, "num_labels": 7,
    "image_size": 64,
}  # fmt: skip

_SWIN: dict[str, Any] = {
    "model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8], "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip

_MASK2FORMER: dict[str, Any] = {
    "backbone_config": _SWIN, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1,
    "encoder_feedforward_dim": 64, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 64,
    "num_queries": 10, "num_labels": 5,
}  # fmt: skip

_MOBILEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [32, 40, 48], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64], "num_labels": 10,
}  # fmt: skip

Encoder = tuple[str, str, Mapping[str, Any], str]
"""Name of the model's class, name of its configuration's class, settings, and part of the reason of a refusal."""

ANY_SIZE = "takes patches of images of any size"

ENCODERS: dict[str, Encoder] = {
    "transformers-vit": ("ViTModel", "ViTConfig", VIT, ""),
    "transformers-deit-teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**VIT, "num_labels": 10}, ""),
    "transformers-levit-teacher": (
        "LevitForImageClassificationWithTeacher", "LevitConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
         "key_dim": [16, 16, 16], "num_labels": 10}, "",
    ),
    "transformers-dinov2": ("Dinov2Model", "Dinov2Config", _DINO, ""),
    "transformers-dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**VIT, "num_register_tokens": 4}, ""),
    "transformers-siglip": ("SiglipVisionModel", "SiglipVisionConfig", VIT, ""),
    "transformers-siglip2-naflex": (
        "Siglip2VisionModel", "Siglip2VisionConfig",
        {**{k: v for k, v in VIT.items() if k != "image_size"}, "num_patches": 16}, ANY_SIZE,
    ),
    "transformers-clip": (
        "CLIPModel", "CLIPConfig", {"vision_config": VIT, "text_config": _TEXT, "projection_dim": 32}, "",
    ),
    "transformers-clip-tower": (
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", {**VIT, "projection_dim": 32}, "",
    ),
    "transformers-sam": ("SamVisionModel", "SamVisionConfig", _SAM, ""),
    "transformers-sam2-hiera": ("Sam2HieraDetModel", "Sam2HieraDetConfig", _HIERA, ""),
    "transformers-depth-anything": (
        "DepthAnythingForDepthEstimation", "DepthAnythingConfig",
        {"backbone_config": _DEPTH_DINO, "reassemble_hidden_size": 64, "neck_hidden_sizes": [16, 16, 32, 32],
         "fusion_hidden_size": 16, "head_hidden_size": 8, "patch_size": 14}, "",
    ),
    "transformers-dpt": (
        "DPTForDepthEstimation", "DPTConfig",
        {**VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32],
         "fusion_hidden_size": 16}, "",
    ),
    "transformers-vitpose": (
        "VitPoseForPoseEstimation", "VitPoseConfig",
        {"backbone_config": {**VIT, "model_type": "vitpose_backbone", "image_size": [64, 48], "patch_size": [16, 16],
                             "out_indices": [2]}, "num_labels": 5}, "",
    ),
    "transformers-vitmae": ("ViTMAEModel", "ViTMAEConfig", VIT, ""),
    "transformers-segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", _SEGFORMER, ""),
    "transformers-mask2former": ("Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", _MASK2FORMER, ""),
    "transformers-timm": (
        "TimmWrapperForImageClassification", "TimmWrapperConfig",
        {"architecture": "vit_tiny_patch16_224", "num_labels": 10, "model_args": {"depth": 2, "img_size": 64}}, "",
    ),
    "transformers-mobilevit": ("MobileViTForImageClassification", "MobileViTConfig", _MOBILEVIT, ""),
    "transformers-internvl": (
        "InternVLVisionModel", "InternVLVisionConfig", {**VIT, "image_size": [64, 64], "patch_size": [16, 16]}, "",
    ),
    "transformers-idefics3": ("Idefics3VisionTransformer", "Idefics3VisionConfig", VIT, ""),
    "transformers-qwen2.5-vl": (
        "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig",
        {"hidden_size": 64, "depth": 2, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": 64}, ANY_SIZE,
    ),
    "transformers-pixtral": (
        "PixtralVisionModel", "PixtralVisionConfig", VIT, "none of whose outputs is a row of float numbers",
    ),
    "transformers-aimv2": ("Aimv2VisionModel", "Aimv2VisionConfig", VIT, ""),
    "transformers-mlcd": ("MLCDVisionModel", "MLCDVisionConfig", VIT, ""),
}  # fmt: skip
"""Name of the row -> its model."""


def has_size(settings: Mapping[str, Any]) -> bool:
    """Whether the settings, or those of a part of the model, say how large images are."""
    parts = (settings, settings.get("backbone_config", {}), settings.get("vision_config", {}))
    return any("image_size" in part for part in parts)
