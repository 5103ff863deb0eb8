"""docs/troubleshooting.md: its tables by situation are written by hand, its list of all messages by this script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated

import typer

from tools.messages import HOLE, Message, messages

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"

BEGIN, END = "<!-- messages: made by python -m tools.troubleshooting -->", "<!-- end of messages -->"
"""The list stands between these two lines."""

TITLES = {
    "error": "Errors (exit code 1)",
    "usage": "Wrong usage (exit code 2)",
    "gate": "Missed gates (exit code 1)",
    "value": "Reasons within other messages",
    "warning": "Warnings",
}
"""Heading of each kind of message."""

GIVE_IT = "Give what the message asks for."
SAYS_IT = re.compile(r"\bmust be\b|\btakes\b|\bknown: |\bgive\b")
"""What to do where a message names what is taken, and the words by which it does."""

AROUND = "The message that it stands in says it."

PROGRAM = "Raised by Python code that hands over its own arrays: check what it passes."
ONLY_PYTHON = (
    "sizes must be",
    "the cost table is",
    "has no option of finite cost",
    "a cost is not negative, and infinite where the option does not exist",
    "a cost is finite and not negative",
    "a layer has at least one",
    "has a width but no size",
    "can be updated",
    "layer names must be unique",
    "there is no budget",
    "there is no layer to allocate bits to",
    "the total of the budget of",
    "the weights of the budget of",
    "the widths to start from take",
    "is no value type",
    "is not a type of",
    "no choice that keeps all budgets was found",
    "no images were counted",
    "expected a non-empty matrix",
    "expected uint8",
    "bits must be 1..8",
    "the hessian",
    "the counts add up to",
    "the weights hold NaN",
    "Recipe.build sees to it",
    "resizing by the rule",
)
"""Parts of messages to which no file and no option leads."""


@dataclass(frozen=True)
class Entry:
    """A message in a table by situation.

    Attributes:
        shape: of the message, see `shape_of`.
        advice: what to do.
    """

    shape: str
    advice: str

    def is_about(self, message: Message) -> bool:
        """Whether it is this message, or its beginning; what the entry leaves open is one word of the message."""
        return self._pattern.match(shape_of(message.text)) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern = r"\S+".join(map(re.escape, self.shape.split("{}")))
        long = len(self.shape.replace("{}", "").strip()) >= 12
        return re.compile(rf"{pattern}(?!\w)" if long else rf"(?:{pattern})\Z")


@cache
def shape_of(text: str) -> str:
    """A message with all that is filled in left open, to compare texts whose fills have other names."""
    return " ".join(HOLE.sub("{}", text).split())


def entries(page: str) -> list[Entry]:
    """What the tables above the list explain."""
    found = []
    for line in page.partition(BEGIN)[0].splitlines():
        if line.startswith("| `"):
            _, shown, _, advice, _ = re.split(r"(?<!\\)\|", line)
            found += [Entry(shape_of(text), advice.strip()) for text in re.findall(r"`([^`]+)`", shown)]
    return found


def advice_for(message: Message, known: Sequence[Entry]) -> str:
    """What to do: the message's own second line, or what a table says where it has none; empty: nobody says it."""
    own = _cell(message.hint) if shape_of(message.hint).replace("{}", "") else ""
    if own and message.always:
        return own
    return " / ".join(filter(None, (_told(message, known), own)))


def _told(message: Message, known: Sequence[Entry]) -> str:
    for entry in known:
        if entry.is_about(message):
            return entry.advice
    if any(part in message.text for part in ONLY_PYTHON):
        return PROGRAM
    if SAYS_IT.search(message.text):
        return GIVE_IT
    return AROUND if message.kind == "value" else ""


def listed(found: Sequence[Message], known: Sequence[Entry]) -> str:
    """The list as Markdown: a table for each kind."""
    parts = []
    for kind, title in TITLES.items():
        rows = [f"| {_code(m.text)} | {advice_for(m, known)} |" for m in found if m.kind == kind]
        if rows:
            parts.append("\n".join([f"### {title}", "", "| message | what to do |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def written(page: str, found: Sequence[Message]) -> str:
    """The page's text with a new list.

    Raises:
        ValueError: the page does not say where the list stands.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{listed(found, entries(page))}\n\n{END}{after}"


def main(
    check: Annotated[bool, typer.Option("--check", help="Only say whether the list is up to date.")] = False,
) -> None:
    """Write the list of messages in docs/troubleshooting.md again, from the code."""
    text = PAGE.read_text(encoding="utf-8")
    new = written(text, messages())
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != text:
        typer.echo("docs/troubleshooting.md is not up to date: run python -m tools.troubleshooting", err=True)
        raise typer.Exit(1)


def _code(text: str) -> str:
    """Text as code within a table."""
    text = " ".join(text.split()).replace("|", "/")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    """Text within a table, with its signs as they are; what stands between backticks is code already."""
    parts = " ".join(text.split()).replace("|", "/").split("`")
    return "`".join(
        part if number % 2 else re.sub(r"([*\[\]{}])", r"\\\1", part.replace("<", "&lt;"))
        for number, part in enumerate(parts)
    )


if __name__ == "__main__":
    typer.run(main)
