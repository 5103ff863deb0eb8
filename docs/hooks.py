"""Parts of the site that are made from the code when it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.main import get_command

from lampq_onnx.cli.main import app
from lampq_onnx.config.fields import text_of
from lampq_onnx.config.recipe import FIELDS, SECTIONS, template

WHERE = {True: "yes", False: ""}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks in a page."""
    for mark, make in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def options() -> str:
    """A table for each section of a recipe."""
    parts = []
    for section in SECTIONS:
        rows = [
            f"| `{field.name}` | {name(field.dashed, field.flag)} | {default(field.default)} | {cell(field.help)} "
            f"| {WHERE[field.shapes_file]} |"
            for field in FIELDS
            if field.section == section and field.same_as is None
        ]
        head = "| key | command line | default | | decides bytes |\n|---|---|---|---|---|"
        parts.append(f"## [{section}]\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def name(dashed: str, flag: str) -> str:
    return "argument" if flag == "model" else f"`{dashed}`"


def default(value: object) -> str:
    return "" if value in (None, (), {}) else f"`{text_of(value)}`"


def commands() -> str:
    """Every command with its own arguments and options; those of recipes are on a page of theirs."""
    shared = {field.flag for field in FIELDS} | {"recipe", "help"}
    parts = []
    for title, command in get_command(app).commands.items():
        text = (command.help or "").strip()
        own = [p for p in command.params if p.name not in shared]
        rows = [
            f"| `{' '.join(p.opts) if p.param_type_name == 'option' else p.name.upper()}` "
            f"| {cell(getattr(p, 'help', '') or '')} |"
            for p in own
        ]
        taken = [f"`{f.dashed}`" for f in FIELDS if any(p.name == f.flag for p in command.params)]
        parts.append(f"## {title}\n\n{text}\n")
        if rows:
            parts.append("| | |\n|---|---|\n" + "\n".join(rows) + "\n")
        if taken:
            parts.append(f"[Options](options.md) of recipes: {', '.join(dict.fromkeys(taken))}; `--recipe FILE`.\n")
    return "\n".join(parts)


def recipe() -> str:
    """What `init` writes."""
    return f"```toml\n{template('digits')}```"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("[bold]", "**").replace("[/]", "**")


MARKS: dict[str, Callable[[], str]] = {
    "<!-- options -->": options,
    "<!-- commands -->": commands,
    "<!-- recipe -->": recipe,
}
