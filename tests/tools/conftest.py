"""A model and images on disk, shared by the tests of commands."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontend.tiny_models import SIZE, tiny_vit
from tools.bench import stand_ins

SHAPE = {"img_size": SIZE, "patch_size": 4, "num_classes": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that name a Vision Transformer of two blocks, and 24 random images for everything."""
    folder = tmp_path_factory.mktemp("tiny")
    weights, images = folder / "tiny.safetensors", folder / "images.npz"
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(images, images=pixels, labels=random.integers(0, 4, 24))
    stand_ins.save(tiny_vit(), weights)
    return [
        "vit_tiny_patch16_224",
        f"--checkpoint={weights}",
        *(f"--model-arg={key}={value}" for key, value in SHAPE.items()),
        f"--calibration={images}",
        f"--validation={images}",
        "--calibration-size=8",
    ]
