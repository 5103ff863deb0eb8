"""The figures of the structure, on a package whose figures are known, and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import structure

FILES = {
    "__init__.py": '"""A package with a few rooms."""\nfrom lampq_onnx.alone import x\n',
    "alone.py": '"""Of this."""\nfrom typing import Any\nfrom lampq_onnx.low import one\nx: Any = one\ny: Any = one\n',
    "low/__init__.py": '"""Face of the low room."""\nfrom lampq_onnx.low.part import one\n',
    "low/part.py": "one = 1\n",
    "high/a.py": "def f() -> None:\n    from lampq_onnx.high import b\n    import lampq_onnx.low.part\n",
    "high/__init__.py": "",
    "high/b.py": "from lampq_onnx.high.inner.c import z\n",
    "high/inner/__init__.py": "",
    "high/inner/c.py": "from lampq_onnx.high.a import f\nz = 1\n" + "\n" * 400,
}


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "lampq_onnx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "lampq_onnx"


def test_arrows_are_counted_once_for_each_pair_of_rooms(made_up: Path) -> None:
    sources = structure.read_package(made_up)
    graph = structure.imports_of(sources)
    outer = structure.between_rooms(graph, {source.name: source.top_room for source in sources})
    assert outer == {"alone": {"low"}, "low": set(), "high": {"low"}}
    inner = structure.between_rooms(graph, {source.name: source.room for source in sources})
    assert inner == {"alone": {"low"}, "low": set(), "high": {"low", "high.inner"}, "high.inner": {"high"}}


def test_circles_of_files_and_of_rooms(made_up: Path) -> None:
    sources = structure.read_package(made_up)
    graph = structure.imports_of(sources)
    assert structure.circles(graph) == [["high.a", "high.b", "high.inner.c"]]
    inner = structure.between_rooms(graph, {source.name: source.room for source in sources})
    assert structure.circles(inner) == [["high", "high.inner"]]
    assert structure.circles({"a": {"b"}, "b": {"a"}, "c": {"a", "d"}, "d": {"c"}}) == [["a", "b"], ["c", "d"]]


def test_any_and_short_docstrings_are_found_with_their_places(made_up: Path) -> None:
    sources = structure.read_package(made_up)
    assert structure.uses_of_any(sources) == ["alone.py:4", "alone.py:5"]
    assert structure.short_docstrings(sources) == ["alone.py:1: Of this."]


def test_options_of_a_help_page() -> None:
    text = """
    Usage: x [OPTIONS]
    │ --bits            <float>  Average, see --candidates. │
    │ *  --output  -o   <path>   Folder.                    │
    │                            --output is needed.        │
    │ --bits            <float>  again                      │
    """
    assert structure.options_in(text.replace("\n    ", "\n")) == ["--bits", "--output"]


def test_this_package(tmp_path: Path) -> None:
    found = structure.measure(structure.REPOSITORY)
    assert "__init__.py" in found["modules in the root"]
    assert {"--bits", "--output", "--help"} <= set(found["options in quantize --help"])
    assert len(found["arrows between rooms"]) <= len(found["arrows between those"])
    with pytest.raises(SystemExit, match="is no Python package"):
        structure.measure(tmp_path)
