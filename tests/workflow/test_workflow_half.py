"""What a target leaves open, and what overflows in float16, in the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from lampq_onnx.allocation import AllocationOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.planning import options_for
from lampq_onnx.workflow.requests import check_target, recipe_for

CUDA, QNN, VNNI = (TARGETS[f"onnxruntime-{name}"] for name in ("cuda", "qnn", "x86-vnni"))


def test_widths_that_were_left_open_are_those_with_a_kernel() -> None:
    assert options_for(AllocationOptions(), CUDA, "native").candidates == (4, 8)
    assert options_for(AllocationOptions(), CUDA, "auto") == AllocationOptions(activation_bits=16)
    assert options_for(AllocationOptions(), QNN, "auto").candidates == (4, 8)
    assert options_for(AllocationOptions(), VNNI, "auto") == AllocationOptions()
    only = options_for(AllocationOptions(), TARGETS["tensorrt-fp8"], "auto")
    assert (only.candidates, only.bits) == ((8,), 8)
    # What was chosen is not changed; whether it has a kernel is said elsewhere.
    assert options_for(AllocationOptions(candidates=(3, 4)), QNN, "auto").candidates == (3, 4)


def test_inputs_are_not_quantized_where_the_target_leaves_them_in_float() -> None:
    assert options_for(AllocationOptions(), CUDA, "auto").activation_bits == 16
    assert options_for(AllocationOptions(activation_bits=16), CUDA, "auto").activation_bits == 16
    for asked in (4, "mixed", "same"):
        with pytest.raises(UsageError, match="leaves all inputs in float"):
            options_for(AllocationOptions(activation_bits=asked), CUDA, "auto")
    assert options_for(AllocationOptions(activation_bits=4), VNNI, "auto").activation_bits == 4


def test_a_recipe_of_a_written_file_gives_the_same_recipe_again(tmp_path: Path) -> None:
    given = {"model": {"name": "digits"}, "output": {"target": CUDA.name, "packing": "native"}}
    first = recipe_for(Recipe.build(given), CUDA)
    check_target(first, CUDA)
    assert first.analysis.candidates == first.allocation.candidates == (4, 8)
    assert first.analysis.activation_bits == 16
    path = tmp_path / "recipe.toml"
    path.write_text(first.to_toml())
    assert recipe_for(Recipe.load(path), CUDA) == first


@pytest.mark.parametrize("name", ["openvino-x86-vnni", "onnxruntime-qnn", "tensorrt"])
def test_the_operator_attention_is_refused_before_anything_is_loaded(name: str) -> None:
    asked = Recipe.build({"model": {"name": "digits"}, "output": {"attention": "operator"}})
    check_target(asked, VNNI)
    with pytest.raises(UsageError, match=rf"{name} reads at most opset \d+, and the operator Attention needs 23"):
        check_target(asked, TARGETS[name])
