"""docs/troubleshooting.md has every message of the code, and explains no message that the code does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.messages import Message, messages, other_texts
from tools.troubleshooting import ONLY_PYTHON, PAGE, Entry, advice_for, entries, written


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def known(page: str) -> list[Entry]:
    """What the tables by situation explain."""
    return entries(page)


@pytest.fixture(scope="module")
def found() -> list[Message]:
    """All messages of the code."""
    return messages()


def test_the_list_of_all_messages_is_up_to_date(page: str, found: list[Message]) -> None:
    assert len(found) > 400
    assert written(page, found) == page, "run python -m tools.troubleshooting"


def test_each_message_has_something_to_do(found: list[Message], known: list[Entry]) -> None:
    assert [m.text for m in found if not advice_for(m, known)] == []


def test_what_is_explained_is_a_message_of_the_code(found: list[Message], known: list[Entry]) -> None:
    assert len(known) > 100
    assert len(set(known)) == len(known)
    assert all(entry.advice for entry in known)
    left = [entry for entry in known if not any(entry.is_about(message) for message in found)]
    others = [Message("note", text) for text in other_texts()]
    assert [entry.shape for entry in left if not any(entry.is_about(text) for text in others)] == []
    assert len(left) < 30  # notes of reports and findings of doctor


def test_the_list_of_exceptions_names_messages_of_the_code(found: list[Message]) -> None:
    assert [part for part in ONLY_PYTHON if not any(part in m.text for m in found)] == []


def test_only_the_last_resort_speaks_of_an_internal_error(found: list[Message]) -> None:
    assert [m.text for m in found if "internal" in m.text.lower()] == ["internal error: {name}: {error}"]


def test_entries_are_messages_or_their_beginnings() -> None:
    message = Message("error", "{path.name} has {count | none} linear layers, and {names} is not one")
    for shape, right in (
        ("{} has {} linear layers, and {} is not one", True),
        ("{} has {} linear layers", True),
        ("{} has {} linear lay", False),
        ("{} has {}", False),  # too short to be a beginning
        ("a has {} linear layers, and {} is not one", False),
    ):
        assert Entry(shape, "").is_about(message) == right
    assert Entry("{}: {}", "").is_about(Message("usage", "{name}: {said}"))
    assert not Entry("{}: {}", "").is_about(Message("usage", "{name}: it is too long"))


def test_messages_are_found_in_all_their_forms(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '''
NAME = "x.json"
HINT = "do this"

class Special(UsageError):
    pass

class Deeper(Special):
    pass

def first(path, wrong, count):
    """Several forms of a text."""
    if wrong:
        raise LampqError(f"{path.parent} has no {NAME}" + (", nowhere" if count else ""), hint=HINT)
    raise Deeper("one" if count > 1 else f"other {', '.join(map(str, count))}", hint="retry" if path else "")

def second():
    message = "set before"
    raise GateError(message)

def third(text, path, hint="at once"):
    return UsageError(text, hint=f"see {path}") if path else GateError("late", hint=hint)

def fourth():
    text, hint = "two", "later"
    raise LampqError(", ".join(f"{text} {n}" for n in range(3)), hint=hint) from third(text, 2, hint)

raise third("from a call", 1)
_log.warning("%s: %d times", path.name, count)
raise ValueError(f"must be {NAME!r}, not {value!r}")
'''
    )
    assert messages(tmp_path) == [
        Message("error", "{text} {n}", "later"),
        Message("error", "{parent} has no x.json", "do this"),
        Message("error", "{parent} has no x.json, nowhere", "do this"),
        Message("usage", "from a call", "see {path}"),
        Message("usage", "one", "retry", always=False),
        Message("usage", "other {count}", "retry", always=False),
        Message("usage", "two", "see {path}"),
        Message("gate", "late", "at once / later"),
        Message("gate", "set before"),
        Message("value", "must be x.json, not {value}"),
        Message("warning", "{name}: {count} times"),
    ]


def test_constants_are_those_that_a_module_imports(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text('HINT = "of a"\n')
    (package / "b.py").write_text('HINT = "of b"\n')
    (package / "__init__.py").write_text("from package.b import HINT\n")
    (package / "c.py").write_text('from package.a import HINT\nraise LampqError("from a", hint=HINT)\n')
    (package / "d.py").write_text('from package import HINT\nraise LampqError("from b", hint=HINT)\n')
    assert messages(package) == [Message("error", "from a", "of a"), Message("error", "from b", "of b")]


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no lines"):
        written("text", [])
