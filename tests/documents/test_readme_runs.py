"""The blocks of README and of the page about the stages, run from top to bottom in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

from lampq_onnx.disk.files import OUTPUT_FILES
from tests.documents.reader import Reader
from tests.prepared import PreparedPython


def test_the_blocks_run_in_order(tmp_path: Path, prepared: PreparedPython) -> None:
    reader = Reader.of(tmp_path, prepared)
    reader.bring_model_and_images()
    left = reader.follow("README.md")
    assert [block.skipped for block in left] == 2 * ["installs the package"]
    (reader.folder / "out").rename(reader.folder / "example")
    for page in ("docs/how-to/own-model.md", "docs/how-to/stages.md"):
        assert reader.follow(page) == []
    made = reader.folder
    assert {path.name for path in (made / "out").iterdir()} == {*OUTPUT_FILES, "triton"}
    layers = json.loads((made / "plan.json").read_text())["layers"]
    assert len(layers) > len(json.loads((made / "hand.json").read_text())["layers"]) == 2
    assert (made / "model.onnx").stat().st_size < 0.6e6 < (made / "float.onnx").stat().st_size
    assert (made / "hand.onnx").is_file()
    assert (made / "out3" / "edited.onnx").is_file()
