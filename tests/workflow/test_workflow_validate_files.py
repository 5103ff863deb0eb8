"""`validate` reads both files, and holds neither graph while it checks them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import onnx_ir as ir
import pytest

from lampq_onnx.config.inputs import DIGITS, ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.disk.files import FLOAT_FILE, MODEL_FILE
from lampq_onnx.workflow import validate_files


def test_no_graph_is_held_during_the_checks(digits_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = digits_run
    load, read = validate_files.load_model, []

    def load_model(path: Path) -> ir.Model:
        found = load(path)
        read.append(weakref.ref(found.graph))
        return found

    def check_files(files: validate_files.FilePair, *_: object, **__: object) -> str:
        gc.collect()
        assert len(read) == 2
        assert all(graph() is None for graph in read)
        return f"{len(files.layers)} layers"

    monkeypatch.setattr(validate_files, "load_model", load_model)
    monkeypatch.setattr(validate_files, "check_files", check_files)
    found = validate_files.validate(
        folder / MODEL_FILE, folder / FLOAT_FILE, ImageOptions(validation=Path(DIGITS)), OutputOptions()
    )
    assert str(found).endswith(" layers")
