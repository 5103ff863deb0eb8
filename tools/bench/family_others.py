"""Define the rows of timm's newer and more distant families: few blocks."""

from __future__ import annotations

from tools.bench.family import Family

_TEN: dict[str, int] = {"num_classes": 10}

_ONE_EACH: dict[str, int | tuple[int, ...]] = {"depths": (1, 1, 1, 1), **_TEN}

OTHERS = (
    Family("dinov3", "vit_small_patch16_dinov3", {"depth": 2}),
    Family("perception-encoder", "vit_pe_core_tiny_patch16_384", {"depth": 2, "img_size": 128}),
    Family("naflexvit", "naflexvit_base_patch16_gap", {"depth": 2, "embed_dim": 192, "num_heads": 3, **_TEN}),
    Family(
        "samvit",
        "samvit_base_patch16_224",
        {"depth": 2, "embed_dim": 192, "num_heads": 3, "global_attn_indexes": (1,), **_TEN},
    ),
    Family("davit", "davit_tiny", _ONE_EACH),
    Family(
        "sam2_hiera", "sam2_hiera_tiny", {"stages": (1, 1, 2, 1), "global_att_blocks": (3,), **_TEN}, size=(256, 256)
    ),
    Family("hiera", "hiera_tiny_224", {"stages": (1, 1, 1, 1), **_TEN}),
    Family("vitamin", "vitamin_small_224", {"depth": 2, **_TEN}),
    Family("gcvit", "gcvit_xxtiny", _TEN),
    Family("maxvit", "maxvit_pico_rw_256", _TEN),
    Family("crossvit", "crossvit_tiny_240", {"depth": ((1, 1, 0),), **_TEN}),
    Family("volo", "volo_d1_224", {"img_size": 64, **_TEN}),
    Family("efficientvit", "efficientvit_b0", {"depths": (1, 1, 1, 1, 1), **_TEN}),
    Family("efficientvit_msra", "efficientvit_m0", {"depth": (1, 1, 1), **_TEN}),
    Family("fastvit", "fastvit_t8", {"layers": (1, 1, 1, 1), **_TEN}),
    Family("fastvit-attention", "fastvit_sa12", {"layers": (1, 1, 1, 1), **_TEN}),
    Family("mambaout", "mambaout_femto", _ONE_EACH),
    Family("mobilevitv2", "mobilevitv2_050", _TEN),
    Family("repvit", "repvit_m0_9", {"depth": (1, 1, 1, 1), **_TEN}),
    Family("convnext", "convnext_atto", _ONE_EACH),
    Family("convnextv2", "convnextv2_atto", _ONE_EACH),
    Family("mixer", "mixer_s32_224", _TEN),
    Family("beit3", "beit3_base_patch16_224", {"depth": 2, "embed_dim": 192, "num_heads": 3, **_TEN}),
)
