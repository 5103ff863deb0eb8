"""Define the rows of the table of families: small models of each family."""

from __future__ import annotations

from tools.bench.family import Family
from tools.bench.family_encoders import ENCODERS, has_size
from tools.bench.family_others import OTHERS

_NARROW: dict[str, int | tuple[int, ...]] = {"depth": 2, "embed_dim": 192, "num_heads": 3}

_SHALLOW: dict[str, int | tuple[int, ...]] = {"embed_dim": 48, "depths": (1, 1, 1, 1)}

FAMILIES = (
    Family("vit", "vit_tiny_patch16_224", {"depth": 2}),
    Family("deit-distilled", "deit_tiny_distilled_patch16_224", {"depth": 2}),
    Family("deit3", "deit3_small_patch16_224", {"depth": 2}),
    Family("beit", "beit_base_patch16_224", _NARROW),
    Family("beitv2", "beitv2_base_patch16_224", _NARROW),
    Family("eva02", "eva02_tiny_patch14_224", {"depth": 2}),
    Family("eva02-swiglu", "eva02_base_patch14_224", _NARROW),
    Family("dinov2-reg", "vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 224}),
    Family("cait", "cait_xxs24_224", {"depth": 2}),
    Family("swin", "swin_tiny_patch4_window7_224", _SHALLOW),
    Family("swinv2", "swinv2_tiny_window8_256", _SHALLOW),
    Family("pvt_v2", "pvt_v2_b0"),
    Family("twins-pcpvt", "twins_pcpvt_small", {"depths": (1, 1, 2, 1)}),
    Family("twins-svt", "twins_svt_small", {"depths": (1, 1, 2, 1)}),
    Family("xcit", "xcit_nano_12_p16_224", {"depth": 2}),
    Family("mobilevit", "mobilevit_xxs"),
    Family("efficientformer", "efficientformer_l1"),
    Family("levit", "levit_128s"),
    Family("tiny_vit", "tiny_vit_5m_224"),
    Family("clip", "vit_base_patch16_clip_224", {**_NARROW, "num_classes": 64}),
    Family("siglip", "vit_base_patch16_siglip_224", _NARROW),
    Family("resnet", "resnet10t", refused="no attention layers were recognized"),
    *OTHERS,
    *(
        Family(name, model, settings, refused=refused, config=config, size=None if has_size(settings) else (64, 64))
        for name, (model, config, settings, refused) in ENCODERS.items()
    ),
)
"""All rows: of timm, and of transformers."""
