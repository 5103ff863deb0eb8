"""The blocks of README and of the pages that one reads first, run from top to bottom."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lampq_onnx.artifacts.report import Report
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.files import OUTPUT_FILES
from tests.documents.reader import Reader


def test_readme_and_the_stages(reader: Reader) -> None:
    reader.follow("README.md")
    (reader.folder / "out").rename(reader.folder / "example")
    for page in ("docs/how-to/own-model.md", "docs/how-to/stages.md"):
        assert reader.follow(page) == []
    made = reader.folder
    assert {path.name for path in (made / "out").iterdir()} == {*OUTPUT_FILES, "triton"}
    layers = json.loads((made / "plan.json").read_text())["layers"]
    assert len(layers) > len(json.loads((made / "hand.json").read_text())["layers"]) == 2
    assert (made / "model.onnx").stat().st_size < 0.35e6 < (made / "float.onnx").stat().st_size
    assert (made / "hand.onnx").is_file()
    assert (made / "out3" / "edited.onnx").is_file()
    # its page takes the files of the stages
    (made / "latency.json").unlink()
    shutil.rmtree(made / "out")
    assert reader.follow("docs/runtime/budgets.md") == []
    assert (made / "out" / "model.onnx").stat().st_size < 0.35e6


def test_the_tutorial(reader: Reader) -> None:
    assert [block.skipped for block in reader.follow("docs/tutorial.md")] == ["installs the package"]
    made = reader.folder
    assert (made / "edited.onnx").is_file()
    assert (made / "smaller.json").is_file()
    assert Report.load(made / "out" / "report.json").model == "digits"
    recipe = Recipe.load(made / "own" / "recipe.toml")
    assert (recipe.allocation.bits, recipe.images.calibration) == (4, Path("calibration"))
    assert "PASS" in (made / "gate.md").read_text()
