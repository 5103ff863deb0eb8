"""The picture of the stages in the documentation is the one that its command draws."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from lampq_onnx.cli.main import COMMANDS
from lampq_onnx.disk.files import OUTPUT_FILES
from tools.diagram import STAGES, TARGET, diagram


def test_the_picture_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == diagram(), "python tools/diagram.py"


def test_it_is_a_picture_with_every_stage_and_every_file_of_a_run() -> None:
    root = ET.fromstring(diagram())
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    commands = {name for group in COMMANDS.values() for name in group}
    assert {stage.command for stage in STAGES} <= commands & set(texts)
    left = {name for stage in STAGES for name in stage.writes.split(", ")}
    assert set(OUTPUT_FILES) - left == {"recipe.toml"}  # not made by a stage


def test_no_text_leaves_its_box() -> None:
    assert all(len(text) <= 30 for stage in STAGES for text in (stage.reads, stage.writes, stage.does))
