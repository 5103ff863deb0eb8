"""The notebook of the documentation, cell by cell, as a reader runs it.

To save time, the call of `quantize` rounds to nearest, swaps nothing, calibrates with 8 images and times two runs on
one thread, and the embedded model has fewer test images.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx.frontend.models import digits
from tests.documents.blocks import REPOSITORY
from tests.documents.reader import TEST_IMAGES
from tests.prepared import take_fewer_digits

PATH = REPOSITORY / "docs" / "first-steps.ipynb"
SLOW = 'effort="fast"'
QUICK = f"{SLOW}, rounding='nearest', rounds=0, calibration_size=8, latency_runs=2, threads=1"


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits, "split_images", digits.split_images)
    take_fewer_digits(TEST_IMAGES)
    names: dict[str, Any] = {}
    shown = []
    cells = [cell for cell in json.loads(PATH.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert any(SLOW in source for source in sources)
    for cell, source in zip(cells, sources, strict=True):
        assert cell["outputs"] == []  # nothing of one machine is kept
        shown.append(run(source.replace(SLOW, QUICK), names))
    assert shown[0]._repr_html_().count("<tr>") > 30
    assert len(shown[-1]) == 2  # two rows of a table of pandas
    assert (tmp_path / "first" / "report.html").is_file()


def run(source: str, names: dict[str, Any]) -> Any:
    """What the last expression of a cell gives."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
