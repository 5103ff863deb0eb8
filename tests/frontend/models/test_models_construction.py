"""timm's constructors: arguments that they do not have or take are named, and images need not be square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.construction import create, image_sides
from lampq_onnx.frontend.models.loading import load_module, load_timm
from tests.frontend.models.checkpoints.saved import ARGS, NAME, saved
from tests.frontend.tiny_models import tiny_vit


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ({"no_such_argument": 1}, "no_such_argument=1"),
        ({"depth": "two"}, "depth='two'"),
        ({"depth": 2.5}, "depth=2.5"),
        ({"img_size": (16, 16, 16)}, "img_size=[16,16,16]"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"num_classes": "10"}, "num_classes='10'"),
    ],
)
def test_the_argument_that_does_not_fit_is_named(wrong: dict[str, Any], shown: str) -> None:
    with pytest.raises(LampqError, match="timm cannot create") as caught:
        create(NAME, ARGS | wrong)
    assert f"with --model-arg {shown}: " in caught.value.message


def test_sides_of_images() -> None:
    assert image_sides(32) == (32, 32)
    assert image_sides((32, 64)) == image_sides([32, 64]) == (32, 64)
    for wrong in ("32x64", (3, 32, 64), (32,), 32.5, (32, "64"), True):
        with pytest.raises(LampqError, match="img_size is "):
            image_sides(wrong)
    with pytest.raises(LampqError, match="img_size is '32x64'"):
        load_timm(NAME, pretrained=True, model_args={"img_size": "32x64"})


def test_a_model_of_images_that_are_not_square(tmp_path: Path) -> None:
    module = tiny_vit(img_size=(16, 32))
    arguments = ARGS | {"img_size": (16, 32)}
    found = load_timm(NAME, checkpoint=saved(tmp_path, module.state_dict()), model_args=arguments)
    assert found.preprocessing.size == (16, 32)
    assert found.preprocessing.crop_pct == 1.0
    images = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.module(images), module(images))
    for given in (None, {"img_size": [16, 32]}):
        assert load_module(module, "tiny", None, given).preprocessing.size == (16, 32)
