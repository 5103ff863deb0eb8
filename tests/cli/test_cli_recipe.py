"""Recipes on the command line."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx import BitPlan
from lampq_onnx.recipe import Recipe

from .conftest import invoke


def test_the_output_holds_the_recipe(digits_run: tuple[Path, str]) -> None:
    recipe = Recipe.load(digits_run[0] / "recipe.toml")
    assert (recipe.model.name, recipe.allocation.bits, recipe.analysis.effort) == ("digits", 3.0, "fast")
    assert recipe.output.baselines == ("uniform",)


def test_the_command_line_overrides_a_recipe(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[allocation]\nbits = 3.5\nmetric = 'uniform'\n")
    for words, bits in (((), 3.5), (("--bits", "5"), 5.0)):
        plan = tmp_path / "plan.json"
        code, _, err = invoke(
            "allocate", digits_run[0] / "sensitivity.json", "--recipe", recipe, *words, "--output", plan
        )
        assert code == 0, err
        assert BitPlan.load(plan).budget == bits
        assert BitPlan.load(plan).metric == "uniform"


def test_a_wrong_recipe_is_refused_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[model]\nname = 'digits'\n[output]\nbaseline = ['uniform']\n")
    code, _, err = invoke("quantize", "--recipe", recipe, "--output", tmp_path / "out")
    assert code == 2
    assert "r.toml" in err
    assert "did you mean baselines" in err
    assert not (tmp_path / "out").exists()
    code, _, err = invoke("quantize", "--output", tmp_path / "out")
    assert code == 2
    assert "no model is named" in err
