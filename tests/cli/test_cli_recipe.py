"""Recipes on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lampq_onnx import BitPlan
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.disk.cache import FOLDER_VARIABLE, ArrayCache
from lampq_onnx.graph.keys import RECIPE_KEY
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.workflow.provenance import read_provenance
from tests.cli.conftest import invoke


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
            "allocate", digits_run[0] / "sensitivity.json", "--recipe", recipe, *words, "--output", plan, "--overwrite"
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


def test_init_writes_a_recipe_with_all_defaults_and_spares_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    assert invoke("init", path)[0] == 0
    assert Recipe.load(path) == Recipe.build({"model": {"name": "digits"}})
    text = " ".join(path.read_text().replace("\n# ", " ").split())
    assert all(" ".join(field.help.split()) in text for field in FIELDS if field.same_as is None)
    path.write_text("mine")
    code, _, err = invoke("init", path)
    assert code == 2
    assert "--overwrite" in err
    assert path.read_text() == "mine"
    assert invoke("init", path, "--overwrite")[0] == 0


def test_a_file_says_how_it_was_made_and_is_made_again(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    model = digits_run[0] / "model.onnx"
    recipe, inputs = read_provenance(load_model(model), model)
    assert recipe.allocation.bits == 3
    assert recipe.output.target.startswith("onnxruntime-")
    assert recipe.output.threads is None
    assert recipe.output.baselines == ()  # only what its bytes depend on
    assert inputs.versions["torch"]
    code, out, err = invoke("reproduce", model, "--output", tmp_path / "again.onnx")
    assert code == 0, err
    assert "bit for bit" in out
    assert (tmp_path / "again.onnx").read_bytes() == model.read_bytes()


def test_what_is_made_from_something_else_is_not_made_again(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    model = digits_run[0] / "model.onnx"
    images = tmp_path / "images.npz"
    np.savez(images, images=np.zeros((4, 8, 8), np.uint8))
    code, _, err = invoke("reproduce", model, "--calibration", images)
    assert code == 1
    assert "the calibration images differ" in " ".join(err.split())
    edited = load_model(model)
    edited.metadata_props[RECIPE_KEY] = edited.metadata_props[RECIPE_KEY].replace("bits = 3", "bits = 4")
    save_model(edited, tmp_path / "edited.onnx")
    code, _, err = invoke("reproduce", tmp_path / "edited.onnx")
    assert code == 1
    assert "was changed after it was written" in " ".join(err.split())
    code, _, err = invoke("reproduce", digits_run[0] / "float.onnx")
    assert code == 1
    assert "does not say how it was made" in " ".join(err.split())


def test_places_are_read_from_the_recipe_beside_the_file(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((digits_run[0] / "model.onnx").read_bytes())
    images, gone = tmp_path / "images.npz", tmp_path / "gone.npz"
    np.savez(images, images=np.zeros((4, 8, 8), np.uint8))
    written = Recipe.load(digits_run[0] / "recipe.toml")
    elsewhere = written.model_copy(update={"images": written.images.model_copy(update={"calibration": gone})})
    (tmp_path / "recipe.toml").write_text(elsewhere.to_toml())
    code, _, err = invoke("reproduce", model)
    assert code == 1
    assert "gone.npz" in err
    code, _, err = invoke("reproduce", model, "--calibration", images)  # the command line comes first
    assert code == 1
    assert "gone.npz" not in err
    assert "the calibration images differ" in " ".join(err.split())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[model]\nname = 'digits'\n[allocation]\nbits = 7\n", "it is the recipe of another file than model.onnx"),
        ("[model]\nname = 'digits'\nbitz = 7\n", "unknown key 'bitz' in [model]"),
        ("bits bits", "is not valid TOML"),
    ],
)
def test_a_recipe_that_is_not_the_file_s_own_is_named_and_not_used(
    digits_run: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((digits_run[0] / "model.onnx").read_bytes())
    (tmp_path / "recipe.toml").write_text(text + "[images]\ncalibration = 'gone.npz'\n")
    images = tmp_path / "images.npz"
    np.savez(images, images=np.zeros((4, 8, 8), np.uint8))
    code, _, err = invoke("reproduce", model, "--calibration", images)
    assert code == 1
    assert "the calibration images differ" in " ".join(err.split())
    (said,) = (record.getMessage() for record in caplog.records if "is not used" in record.getMessage())
    assert said.startswith(f"{tmp_path / 'recipe.toml'} is not used: ")
    assert why in said


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    ArrayCache.of_user().put("a", {"x": np.zeros(1000)})
    assert "1 results, 0.0 MB" in invoke("cache")[1]
    assert "removed" in invoke("cache", "--clear")[1]
    assert not list(tmp_path.glob("*.arrays"))


def test_the_recipe_of_init_runs_as_written(tmp_path: Path) -> None:
    from lampq_onnx.artifacts import Report

    recipe, output = tmp_path / "recipe.toml", tmp_path / "out"
    assert invoke("init", recipe)[0] == 0
    written = recipe.read_bytes()
    few = ("--calibration-size", "16", "--rounds", "1", "--latency-runs", "2", "--threads", "1")
    assert invoke("quantize", "--recipe", recipe, "--output", output, *few)[0] == 0
    assert recipe.read_bytes() == written
    report = Report.load(output / "report.json")
    assert (report.model, report.bits.budget) == ("digits", 4)
    written_back = Recipe.load(output / "recipe.toml")
    assert written_back.analysis == Recipe.load(recipe).analysis
    assert written_back.rounding == Recipe.load(recipe).rounding
