"""The help page of a command: the options that most people need, or all of them."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Self

import typer
from typer.core import TyperCommand

from lampq_onnx.cli.names import ALL_TABLES
from lampq_onnx.config.names import filled

HELP_ALL = "help_all"
"""Parameter that every command has: `--help-all`."""


class HelpfulCommand(TyperCommand):
    """A command whose `--help` leaves out hidden options, and whose `--help-all` shows them.

    Marks such as ``{metrics}`` in help texts are filled in when the page is shown: the tables are loaded only then.
    """

    everything = False
    """Whether the page shows hidden options as well."""

    def with_everything(self) -> Self:
        """The same command, with a page that shows every option."""
        found = copy.copy(self)
        found.everything = True
        return found

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # click's own types
        """Print the page with the options that it shows."""
        page = copy.copy(self)
        page.help = reflowed(self.help or "")
        hidden = [param for param in self.params if getattr(param, "hidden", False)]
        shown = [param for param in self.params if self.everything or param not in hidden]
        page.params = [_shown(param) for param in shown if hidden or param.name != HELP_ALL]
        super(HelpfulCommand, page).format_help(ctx, formatter)


def with_help_all(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option `--help-all`."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())

    @wraps(command)
    def run(**given: Any) -> None:
        given.pop(HELP_ALL)
        command(**given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, _HELP_ALL)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def reflowed(text: str) -> str:
    """A docstring with each paragraph on one line, so that the terminal breaks it where it is full."""
    return "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n"))


def _shown(param: Any) -> Any:
    """A copy of a parameter as the page shows it.

    It shows the first long name: further ones are older, and the one that turns an option off is said in its text. Its
    column would leave too little room for the others on a terminal of 80 columns.
    """
    found = copy.copy(param)
    long = [name for name in found.opts if name.startswith("--")]
    found.opts = [name for name in found.opts if name not in long[1:]]
    found.secondary_opts = []
    if getattr(found, "help", None):
        found.help = filled(found.help, ALL_TABLES)
    if getattr(found, "hidden", False):
        found.hidden = False
    return found


def _show_everything(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing and isinstance(ctx.command, HelpfulCommand):
        typer.echo(ctx.command.with_everything().get_help(ctx))
        raise typer.Exit


_HELP_ALL = inspect.Parameter(
    HELP_ALL,
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--help-all",
            is_eager=True,
            callback=_show_everything,
            help="Show this page with all options, the advanced ones included, and exit.",
        ),
    ],
)
