"""What is refused before anything is loaded."""

from __future__ import annotations

import pytest

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.requests import check_options


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
