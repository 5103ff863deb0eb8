"""The lower bounds that are tried out are those of pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import lowest


def test_every_dependency_has_a_lower_bound(tmp_path: Path) -> None:
    bounds = lowest.lower_bounds(lowest.REPOSITORY / "pyproject.toml")
    assert {"numpy", "torch", "torchvision", "onnxruntime", "typer"} <= set(bounds)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["a[x] >= 1.2, < 3", "b==1"]')
    with pytest.raises(ValueError, match="'b==1' has no lower bound"):
        lowest.lower_bounds(project)
    project.write_text('[project]\ndependencies = ["a[x] >= 1.2, < 3"]')
    assert lowest.lower_bounds(project) == {"a": "1.2"}
