"""What is refused before anything is loaded."""

from __future__ import annotations

import pytest

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.requests import check_options, require_images


@pytest.mark.parametrize(
    ("target", "packing", "inputs", "words"),
    [
        ("onnxruntime-qnn", "auto", 8, "does not unpack weights when it loads a file"),
        ("tensorrt", "auto", 8, "does not unpack weights when it loads a file"),
        ("onnxruntime-x86-vnni", "native", 8, "native storage has one integer type for a layer"),
        ("onnxruntime-x86-vnni", "auto", "same", "so it must be one width"),
    ],
)
def test_groups_of_channels_where_a_layer_has_one_width(
    target: str, packing: str, inputs: int | str, words: str
) -> None:
    own = {"granularity": "group", "activation_bits": inputs}
    recipe = Recipe.build({"model": {"name": "digits"}, "allocation": own, "output": {"packing": packing}})
    with pytest.raises(UsageError, match=words):
        check_options(recipe, TARGETS[target])


def test_groups_of_channels_where_they_can_be() -> None:
    recipe = Recipe.build({"model": {"name": "digits"}, "allocation": {"granularity": "group"}})
    check_options(recipe, TARGETS["onnxruntime-x86-vnni"])
    assert recipe.allocation.granularity == "group"


@pytest.mark.parametrize(("name", "meant"), [("digist", True), ("digits-v2", True), ("vit_tiny_patch16_224", False)])
def test_missing_images_are_named_also_where_the_embedded_model_may_be_meant(name: str, meant: bool) -> None:
    with pytest.raises(UsageError, match="no validation images and no calibration images") as refusal:
        require_images(Recipe.build({"model": {"name": name}}))
    assert ("did you mean digits" in (refusal.value.hint or "")) == meant
    require_images(Recipe.build({"model": {"name": "digits"}}))
