"""How much a command says: the options --verbose, --quiet and --json, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lampq_onnx.cli.collector import settle
from lampq_onnx.errors import UsageError

if TYPE_CHECKING:
    from lampq_onnx.running.forecast import Forecast
    from lampq_onnx.running.overall import Overall

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also list every stage, and every layer of the result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone: no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and no progress.")]


@dataclass(frozen=True)
class Voice:
    """What a command prints.

    Attributes:
        verbose: every stage and every layer.
        quiet: the result alone.
        as_json: the result as one JSON object on standard output.
    """

    verbose: bool = False
    quiet: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        if self.verbose and (self.quiet or self.as_json):
            other = "--quiet" if self.quiet else "--json"
            raise UsageError(f"--verbose and {other} exclude each other", hint="give one of them")

    @contextmanager
    def progress(self, forecast: Forecast | None = None, run: str | None = None) -> Iterator[Overall]:
        """Show the progress of a run on standard error, as this voice wants it.

        Args:
            forecast: the expected stages; None: not known.
            run: name under which the seconds of the stages are kept for the next run; None: they are not.
        """
        from lampq_onnx.cli.progress import terminal_progress
        from lampq_onnx.disk.stage_times import remember_times
        from lampq_onnx.running.forecast import Forecast
        from lampq_onnx.running.overall import Overall

        settle()
        known = forecast or Forecast({})
        sink = Overall(known) if self.quiet or self.as_json else terminal_progress(known, verbose=self.verbose)
        with sink as shown:
            yield shown
        if run is not None:
            remember_times(run, shown.seconds)

    def say(self, line: str) -> None:
        """Print a line about files, unless only JSON is wanted."""
        if not self.as_json:
            typer.echo(line)

    def print(self, values: Callable[[], Any], table: Callable[[], None]) -> None:
        """Print a result as JSON or as a table.

        Args:
            values: makes what JSON shows.
            table: prints it for people.
        """
        if self.as_json:
            typer.echo(json.dumps(values(), indent=2, ensure_ascii=False))
        else:
            table()
