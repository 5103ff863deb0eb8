"""Fenced code blocks of the Markdown pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

PAGES = [
    "README.md", "CONTRIBUTING.md",
    *sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")),
]  # fmt: skip
"""Pages for users and for those who change the code, as paths from the root of the checkout."""

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*) *$")
SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
"""Where the site puts a file of the documentation."""

NOTE = re.compile(r"^<!-- (?P<kind>not run|file): (?P<text>.+) -->$")
"""A line right above a block: why it is not run, or the file that a reader saves it as."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: path from the root of the checkout.
        line: of its first fence, from 1.
        language: word behind the fence; empty: none.
        text: without the fences.
        skipped: why it is not run; empty: it is.
        file: name that a reader saves it as; empty: none.
    """

    page: str
    line: int
    language: str
    text: str
    skipped: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


def blocks_of(text: str, page: str) -> list[Block]:
    """The blocks of a page's text, in order.

    Raises:
        ValueError: a block has no end.
    """
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if not fence:
            number += 1
            continue
        end = next((n for n in range(number + 1, len(lines)) if lines[n] == f"{fence['indent']}```"), None)
        if end is None:
            raise ValueError(f"{page}:{number + 1}: the block has no end")
        note = NOTE.match(lines[number - 1].strip()) if number else None
        notes = {note["kind"]: note["text"]} if note else {}
        body = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end])
        found.append(Block(page, number + 1, fence["language"], body, notes.get("not run", ""), notes.get("file", "")))
        number = end + 1
    return found


def page_blocks(name: str) -> list[Block]:
    """The blocks of a page of the checkout, with the files that the site puts into them."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return blocks_of(SNIPPET.sub(lambda found: (REPOSITORY / "docs" / found[1]).read_text("utf-8"), text), name)


def without_blocks(text: str) -> str:
    """A page's text with its fenced blocks taken out."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if FENCE.match(line) or (inside and line.strip() == "```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)
