"""The commands as the list of all of them shows them; each is loaded when it is used."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

STYLE: dict[str, Any] = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False}
"""Settings that all pages share."""


@dataclass(frozen=True)
class Listed:
    """A command before it is loaded.

    Attributes:
        module: the file of `lampq_onnx.cli` that has it.
        does: the first paragraph of its docstring, which `lampq-onnx --help` shows.
        function: its name there; empty: the command's.
    """

    module: str
    does: str
    function: str = ""

    def load(self, name: str, panel: str) -> Any:
        """Import the command and read its options, which takes longer than printing the list.

        Args:
            name: the command's.
            panel: heading above it in the list.
        """
        from lampq_onnx.cli.help_page import HelpfulCommand, with_help_all

        own = typer.Typer(add_completion=False, **STYLE)
        found = getattr(importlib.import_module(f"lampq_onnx.cli.{self.module}"), self.function or name)
        own.command(name, cls=HelpfulCommand, rich_help_panel=panel)(with_help_all(found))
        return get_command(own)

    def line(self, name: str, panel: str) -> TyperCommand:
        """Return a command without options, for the list."""
        return TyperCommand(name, help=self.does, rich_help_panel=panel)


class LoadedCommands(Mapping[str, Any]):
    """Commands by name, in their order; each is loaded when it is first read.

    Args:
        table: heading -> name -> command.
    """

    def __init__(self, table: Mapping[str, Mapping[str, Listed]]) -> None:
        self._listed = {name: (panel, listed) for panel, group in table.items() for name, listed in group.items()}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        panel, listed = self._listed[name]
        if name not in self._loaded:
            self._loaded[name] = listed.load(name, panel)
        return self._loaded[name]

    # Those of Mapping take a KeyError of loading for a name that is not listed.
    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def get(self, name: str, default: Any = None) -> Any:
        """Return the command, or ``default`` if its name is not listed."""
        return self[name] if name in self._listed else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    @cached_property
    def lines(self) -> dict[str, TyperCommand]:
        """The commands without their options, in their order."""
        return {name: listed.line(name, panel) for name, (panel, listed) in self._listed.items()}


class CommandGroup(TyperGroup):
    """A group that loads the command that is used, and none for the list of all commands.

    Subclasses set ``table``.
    """

    table: Mapping[str, Mapping[str, Listed]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._known = LoadedCommands(self.table)
        self.commands: Any = self._known

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # click's own types
        """Print the list of the commands."""
        page = copy.copy(self)
        page.commands = self._known.lines
        super(CommandGroup, page).format_help(ctx, formatter)
