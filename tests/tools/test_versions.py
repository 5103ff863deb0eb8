"""The versions that are tried out are those of pyproject.toml, and a scheduled job tries them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import newest
from tools.walking import versions


def test_every_dependency_has_a_lower_bound(tmp_path: Path) -> None:
    bounds = versions.lower_bounds(versions.REPOSITORY / "pyproject.toml")
    assert {"numpy", "torch", "torchvision", "onnxruntime", "typer", "pulp", "highspy"} <= set(bounds)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["a[x] >= 1.2, < 3", "b==1"]')
    with pytest.raises(ValueError, match="'b==1' has no lower bound"):
        versions.lower_bounds(project)
    project.write_text('[project]\ndependencies = ["a[x] >= 1.2, < 3"]')
    assert versions.lower_bounds(project) == {"a": "1.2"}


def test_pre_releases_are_of_dependencies() -> None:
    known = {"pulp": "3.0", "torch": "2.9"}
    assert newest.pre_releases(["PuLP"], known) == [["--upgrade", "--pre", "pulp"]]
    assert newest.pre_releases([], known) == []
    with pytest.raises(ValueError, match="pupl is no dependency of the package; those are pulp, torch"):
        newest.pre_releases(["pupl"], known)


@pytest.mark.parametrize("further", [[], [["--upgrade", "--pre", "pulp"]]])
def test_an_environment_is_made_in_order(
    further: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel and what it needs, the wheel of this very checkout, pre-releases, and pip's check at last."""
    calls: list[list[str]] = []

    def record(words: list[str], folder: Path, **environment: str) -> None:
        calls.append(words)
        if "wheel" in words:
            (folder / "dist").mkdir()
            (folder / "dist/lampq_onnx-0-py3-none-any.whl").write_text("")

    monkeypatch.setattr(versions, "run", record)
    python = versions.environment(tmp_path, ["--upgrade"], further)
    assert python == tmp_path / "venv/bin/python"
    kinds = [words[words.index("pip") + 1] if "pip" in words else "venv" for words in calls]
    assert kinds == ["venv", "wheel", "install", "install", *["install"] * len(further), "check"]
    assert "--upgrade" in calls[2]
    assert "--no-deps" in calls[3]
    if further:
        assert calls[4][-3:] == further[0]


def test_the_scheduled_job_runs_both() -> None:
    text = (versions.REPOSITORY / ".github/workflows/versions.yml").read_text(encoding="utf-8")
    assert "schedule:" in text
    for tool in re.findall(r"python (tools/\w+\.py)", text):
        assert (versions.REPOSITORY / tool).is_file()
    assert {"tools/lowest.py", "tools/newest.py"} <= set(re.findall(r"python (tools/\w+\.py)", text))
