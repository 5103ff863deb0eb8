"""The tutorial's blocks, run from top to bottom in an empty folder."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.artifacts.report import Report
from lampq_onnx.config.recipe import Recipe
from tests.documents.reader import Reader
from tests.prepared import PreparedPython


def test_the_blocks_run_in_order(tmp_path: Path, prepared: PreparedPython) -> None:
    reader = Reader.of(tmp_path, prepared)
    reader.bring_model_and_images()
    left = reader.follow("docs/tutorial.md")
    assert [block.skipped for block in left] == ["installs the package"]
    made = reader.folder
    assert (made / "edited.onnx").is_file()
    assert (made / "smaller.json").is_file()
    assert Report.load(made / "out" / "report.json").model == "digits"
    recipe = Recipe.load(made / "own" / "recipe.toml")
    assert (recipe.allocation.bits, recipe.images.calibration) == (4, Path("calibration"))
    assert "PASS" in (made / "gate.md").read_text()
