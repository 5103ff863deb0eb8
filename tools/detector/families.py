"""Small detectors of transformers with random weights, one for each family, as folders that `from_pretrained` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tools.scenes import CLASSES, SIZE

WIDTH, HEADS, QUERIES = 32, 4, 9
STAGES = [16, 32, 48, 64]
"""Channels of a backbone's stages."""

PROCESSOR = {
    "image_processor_type": "YolosImageProcessor",
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": False,
}


def write_detector(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the folder of a family's model: configuration, weights and image processor.

    Args:
        name: one of `FAMILIES`.
    """
    torch.manual_seed(seed)
    model = FAMILIES[name]().eval()
    model.config.id2label = dict(enumerate(CLASSES))
    model.config.label2id = {kind: i for i, kind in enumerate(CLASSES)}
    _spread_statistics(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR) + "\n")
    return folder


@torch.no_grad()
def _spread_statistics(model: torch.nn.Module) -> None:
    """Give batch norms statistics as training leaves them: folding them is no change otherwise."""
    for part in model.modules():
        if hasattr(part, "running_var"):
            part.running_var.uniform_(0.5, 2.0)
            part.running_mean.normal_(std=0.2)
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(std=0.2)


def _resnet(*out: str) -> Any:
    return hf.ResNetConfig(
        embedding_size=16, hidden_sizes=STAGES, depths=[1] * 4, layer_type="basic", out_features=list(out)
    )


def _backbone(config: Any) -> dict[str, Any]:
    return {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": config}


def _transformer(width_key: str = "d_model") -> dict[str, Any]:
    sizes = {
        f"{part}_{what}": value
        for part in ("encoder", "decoder")
        for what, value in (("layers", 2), ("attention_heads", HEADS), ("ffn_dim", 2 * WIDTH))
    }
    return {width_key: WIDTH, "num_queries": QUERIES, "num_labels": len(CLASSES), **sizes}


def _yolos() -> Any:
    config = hf.YolosConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=[SIZE, SIZE],
        patch_size=16, num_detection_tokens=QUERIES, num_labels=len(CLASSES),
    )  # fmt: skip
    return hf.YolosForObjectDetection(config)


def _detr() -> Any:
    return hf.DetrForObjectDetection(hf.DetrConfig(**_backbone(_resnet("stage4")), **_transformer()))


def _table_transformer() -> Any:
    config = hf.TableTransformerConfig(**_backbone(_resnet("stage4")), **_transformer())
    return hf.TableTransformerForObjectDetection(config)


def _conditional_detr() -> Any:
    config = hf.ConditionalDetrConfig(**_backbone(_resnet("stage4")), **_transformer())
    return hf.ConditionalDetrForObjectDetection(config)


def _dab_detr() -> Any:
    config = hf.DabDetrConfig(**_backbone(_resnet("stage4")), **_transformer("hidden_size"))
    return hf.DabDetrForObjectDetection(config)


def _deformable_detr() -> Any:
    backbone = _backbone(_resnet("stage2", "stage3", "stage4"))
    config = hf.DeformableDetrConfig(**backbone, **_transformer(), num_feature_levels=4)
    return hf.DeformableDetrForObjectDetection(config)


def _hybrid(backbone: Any) -> dict[str, Any]:
    """Arguments that RT-DETR and its successors share."""
    sizes = {key: value for key, value in _transformer().items() if key != "encoder_layers"}
    return {
        **sizes,
        "backbone_config": backbone,
        "encoder_hidden_dim": WIDTH,
        "encoder_in_channels": STAGES[1:],
        "decoder_in_channels": [WIDTH] * 3,
        "hidden_expansion": 0.5,
        "num_denoising": 0,
    }


def _rt_resnet() -> Any:
    return hf.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=STAGES, depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _hgnet() -> Any:
    return hf.HGNetV2Config(
        stem_channels=[3, 8, 8], hidden_sizes=STAGES, stage_in_channels=[8, 16, 32, 48], stage_mid_channels=[8] * 4,
        stage_out_channels=STAGES, stage_num_blocks=[1] * 4, stage_numb_of_layers=[2] * 4,
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5], use_learnable_affine_block=True, out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _rt_detr() -> Any:
    return hf.RTDetrForObjectDetection(hf.RTDetrConfig(**_hybrid(_rt_resnet())))


def _rt_detr_v2() -> Any:
    return hf.RTDetrV2ForObjectDetection(hf.RTDetrV2Config(**_hybrid(_rt_resnet())))


def _d_fine() -> Any:
    return hf.DFineForObjectDetection(hf.DFineConfig(**_hybrid(_hgnet()), decoder_n_points=[3, 4, 3]))


def _rf_detr() -> Any:
    backbone = hf.RfDetrDinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, mlp_ratio=2, image_size=SIZE, patch_size=16,
        num_windows=2, out_features=["stage2", "stage4"],
    )  # fmt: skip
    config = hf.RfDetrConfig(
        backbone_config=backbone, d_model=WIDTH, decoder_ffn_dim=2 * WIDTH, decoder_layers=2,
        decoder_self_attention_heads=HEADS, decoder_cross_attention_heads=HEADS, num_queries=QUERIES, group_detr=1,
        c2f_num_blocks=1, num_labels=len(CLASSES),
    )  # fmt: skip
    return hf.RfDetrForObjectDetection(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "yolos": _yolos,
    "detr": _detr,
    "table-transformer": _table_transformer,
    "conditional-detr": _conditional_detr,
    "dab-detr": _dab_detr,
    "deformable-detr": _deformable_detr,
    "rt-detr": _rt_detr,
    "rt-detr-v2": _rt_detr_v2,
    "d-fine": _d_fine,
    "rf-detr": _rf_detr,
}
"""Name -> what builds a small model of the family."""
