"""Parts of the site that are made from the code when it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape
from typer.main import get_command

from lampq_onnx.cli.help_page import HELP_ALL, reflowed
from lampq_onnx.cli.main import COMMANDS, app
from lampq_onnx.cli.names import ALL_TABLES
from lampq_onnx.config.fields import Field, text_of
from lampq_onnx.config.names import filled
from lampq_onnx.config.recipe import template
from lampq_onnx.config.sections import FIELDS, SECTIONS

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
            f"| {WHERE[field.shapes_file]} | {WHERE[field.level == 'basic']} |"
            for field in FIELDS
            if field.section == section and field.same_as is None
        ]
        head = "| key | command line | default | | decides bytes | in --help |\n|---|---|---|---|---|---|"
        parts.append(f"## [{section}]\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def name(dashed: str, flag: str) -> str:
    return "argument" if flag == "model" else f"`{dashed}`"


def default(value: object) -> str:
    return "" if value in (None, (), {}) else f"`{text_of(value)}`"


def commands() -> str:
    """Every command with its own arguments and options; those of recipes are on a page of theirs."""
    shared = {field.flag: field for field in FIELDS if field.same_as is None}
    known = get_command(app).commands
    parts = []
    for title in (name for group in COMMANDS.values() for name in group):
        command = known[title]
        text = reflowed(command.help or "")
        options = [shared[p.name] for p in command.params if p.name in shared and says(p, shared[p.name])]
        others = {*(field.flag for field in options), "recipe", "set_", HELP_ALL}
        own = [p for p in command.params if p.name not in others]
        rows = [
            f"| `{' '.join(p.opts) if p.param_type_name == 'option' else p.name.upper()}` "
            f"| {cell(filled(getattr(p, 'help', '') or '', ALL_TABLES))} |"
            for p in own
        ]
        parts.append(f"## {title}\n\n{text}\n")
        if rows:
            parts.append("| | |\n|---|---|\n" + "\n".join(rows) + "\n")
        if options:
            dashed = ", ".join(f"`{field.dashed}`" for field in options)
            parts.append(f"[Options](options.md) of recipes: {dashed}; `--recipe`, `--set`.\n")
    return "\n".join(parts)


def says(parameter: Any, field: Field) -> bool:
    """Whether a parameter of a command is the option, and not another one of that name."""
    return str(getattr(parameter, "help", "") or "").startswith(escape(field.text))


def names() -> str:
    """Every table of names, as `list` prints them."""
    parts = []
    for title, table in ALL_TABLES.items():
        rows = "\n".join(f"| `{name}` | {cell(said)} |" for name, said in table().items())
        parts.append(f"**{title}**\n\n| | |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def recipe() -> str:
    """What `init` writes."""
    return f"```toml\n{template('digits')}```"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("[bold]", "**").replace("[/]", "**")


MARKS: dict[str, Callable[[], str]] = {
    "<!-- options -->": options,
    "<!-- commands -->": commands,
    "<!-- names -->": names,
    "<!-- recipe -->": recipe,
}
