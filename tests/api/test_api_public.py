"""What `import lampq_onnx` gives is whole: names, types, docstrings and the reference."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import lampq_onnx
from tests.api.public import (
    described,
    documented,
    fields_of,
    hints_of,
    members_of,
    own_types,
    public,
    raises,
)

REPOSITORY = Path(lampq_onnx.__file__).parents[1]
PUBLIC = public()
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
COMMANDS = {"allocate", "analyze", "convert", "doctor", "explain", "inspect", "package", "probe", "quantize", "report",
            "reproduce", "sweep", "validate"}  # fmt: skip


def test_the_lists_of_names_agree() -> None:
    """The imports that type checkers read, the homes that are used at run time, and what a star import gives."""
    tree = ast.parse(Path(lampq_onnx.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert checked == lampq_onnx._HOMES
    assert lampq_onnx.__all__ == sorted(checked, key=lambda name: (name[0].islower(), name))
    assert dir(lampq_onnx) == sorted(lampq_onnx.__all__)
    for name, value in PUBLIC.items():
        assert (value.__module__, value.__qualname__) == (checked[name], name)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        lampq_onnx.quantise  # noqa: B018


def test_there_is_nothing_else() -> None:
    assert len(FUNCTIONS) + len(CLASSES) == len(PUBLIC)
    assert set(FUNCTIONS) >= COMMANDS


@pytest.mark.parametrize("name", PUBLIC)
def test_every_type_that_a_name_leads_to_is_public(name: str) -> None:
    """What functions take and return, what fields hold, and what methods and properties return."""
    value = PUBLIC[name]
    hints = dict(hints_of(value))
    if name in CLASSES:
        hints |= {f"{member}()": hints_of(inner).get("return") for member, inner in members_of(value).items()}
    hidden = [
        f"{where}: {kind.__module__}.{kind.__name__}"
        for where, hint in hints.items()
        for kind in own_types(hint)
        if not where.startswith("_") and PUBLIC.get(kind.__name__) is not kind
    ]
    assert not hidden


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_of_functions(name: str) -> None:
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    assert text.splitlines()[0].endswith(".")
    assert len(text.splitlines()[0].split()) > 3
    assert [p for p in signature.parameters if not documented(function.__doc__, p)] == []
    assert ("Returns:" in text) == (signature.return_annotation != "None")
    # All but those which only read values can fail on what a user gives.
    assert ("Raises:" in text) == (name != "gates_of")
    assert not [p for p, value in signature.parameters.items() if re.search(r"\bAny\b", str(value.annotation))]


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_of_classes(name: str) -> None:
    kind = CLASSES[name]
    assert (kind.__doc__ or "").strip().splitlines()[0].endswith((".", ":")), kind.__doc__
    assert [field for field in fields_of(kind) if not described(kind, field)] == []
    for member, function in members_of(kind).items():
        text = function.__doc__ or ""
        assert text.strip(), member
        taken = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        assert [p for p in taken if not documented(text, p)] == [], member
        assert ("Raises:" in text) or not raises(function), member
        assert "Any" not in re.findall(r"\w+", " ".join(map(str, function.__annotations__.values()))), member
    assert "Any" not in re.findall(r"\w+", " ".join(map(str, inspect.get_annotations(kind).values())))


def references() -> dict[str, Path]:
    """Dotted name that a page of the reference shows -> the page."""
    pages = sorted((REPOSITORY / "docs" / "reference").glob("*.md"))
    return {name: page for page in pages for name in re.findall(r"(?m)^::: (\S+)$", page.read_text(encoding="utf-8"))}


def test_the_reference_shows_every_name() -> None:
    shown = references()
    missing = [
        f"{value.__module__}.{name}"
        for name, value in PUBLIC.items()
        if not {f"{value.__module__}.{name}", value.__module__} & set(shown)
    ]
    assert not missing


def test_the_reference_shows_nothing_private() -> None:
    known = {f"{value.__module__}.{name}" for name, value in PUBLIC.items()}
    for dotted, page in references().items():
        parts = dotted.split(".")
        assert not any(part.startswith("_") for part in parts), page
        if dotted in sys.modules:  # a whole module: all that it defines in public is in the package's face
            own = {
                f"{dotted}.{name}"
                for name, value in vars(sys.modules[dotted]).items()
                if not name.startswith("_") and getattr(value, "__module__", None) == dotted and callable(value)
            }
            assert own <= known, page
        else:
            assert dotted in known, page


def test_the_guide_lists_every_function() -> None:
    text = (REPOSITORY / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    assert [name for name in FUNCTIONS if f"`{name}`" not in text and f"lampq_onnx.{name}(" not in text] == []
