"""Which layers of each family get a width, on models as small as their constructors make them; a rehearsal says so."""

from __future__ import annotations

from collections import Counter

import pytest
import timm

from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.frontend.models.rewrites import rewrite
from lampq_onnx.frontend.recognized import recognized
from lampq_onnx.frontend.session import Frontend
from tests.frontend.tiny_models import SIZE, images, loaded, pixels
from tools.bench.family import randomize

VIT = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "depth": 1, "num_classes": 4}
BLOCK = {"qkv": 1, "proj": 1, "fc1": 1, "fc2": 1}
WINDOWS = {"img_size": SIZE, "patch_size": 2, "embed_dim": 8, "num_heads": (2, 2), "depths": (1, 1), "num_classes": 4}
OVERLAP = "its patches overlap, are padded, or do not cover the image"
GROUPS = "a convolution with groups, or not over images"

CASES: dict[str, tuple[str, dict[str, object], dict[str, int], dict[str, int]]] = {
    "beit": ("beit_base_patch16_224", VIT, {"patch_embed": 1, **BLOCK, "head": 1}, {}),
    "eva02 without a head": (
        "eva02_base_patch14_224", {**VIT, "num_classes": 0},
        {"patch_embed": 1, **BLOCK, "qkv": 3, "fc1": 2}, {},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224", {**WINDOWS, "window_size": 4},
        {"patch_embed": 1, **dict.fromkeys(BLOCK, 2), "linear": 1, "head": 1}, {},
    ),
    "pvt_v2": (
        "pvt_v2_b0",
        {"depths": (1, 1), "embed_dims": (8, 16), "num_heads": (1, 2), "sr_ratios": (2, 1), "mlp_ratios": (2, 2)},
        {**dict.fromkeys(BLOCK, 2), "qkv": 4, "linear": 1, "head": 1}, {OVERLAP: 2, GROUPS: 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers_of_a_family(case: str) -> None:
    name, arguments, layers, skipped = CASES[case]
    model = timm.create_model(name, **arguments).eval().requires_grad_(False)
    randomize(model, 0)
    rewrite(model, name, pixels(2))
    frontend = Frontend(loaded(model))
    exported = frontend.exported
    assert Counter(layer.type for layer in exported.layers) == layers
    assert Counter(exported.skipped.values()) == skipped
    fixed = {layer.type for layer in exported.layers if layer.fixed}
    assert fixed <= {"patch_embed", "linear", "head"}
    said = recognized(frontend, images(2), equalize=False)
    measured = frontend.analyze(images(2), AnalysisOptions(effort="fast", candidates=(4,)), seed=0)
    assert [(u.name, u.type, u.shape, u.fixed) for u in said.layers] == [
        (u.name, u.type, u.shape, u.fixed) for u in measured.layers
    ]
    assert said.skipped == measured.skipped
