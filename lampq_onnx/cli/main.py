"""Entry point and the handling of errors."""

from __future__ import annotations

import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from lampq_onnx.cli import commands, doctor, explain, package, probe, recipes, report, stages, sweep
from lampq_onnx.errors import INTERRUPTED, LampqError

app = typer.Typer(
    name="lampq-onnx",
    help="Mixed-precision quantization of Vision Transformers: a model in, a standard ONNX file out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
commands.register(app)
stages.register(app)
report.register(app)
explain.register(app)
package.register(app)
recipes.register(app)
doctor.register(app)
probe.register(app)
sweep.register(app)


_STOPPED = "interrupted; no file is half written, and what was there before is as it was"


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    """Options that stand before or after any command."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("lampq-onnx"))
        raise typer.Exit


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(words, debug=debug))


def _run(words: list[str], *, debug: bool) -> int:
    try:
        app(words)
    except SystemExit as done:  # Typer's way to end, wrong usage (2) and Ctrl-C (130) included
        if done.code == INTERRUPTED:
            return _fail(_STOPPED, "", INTERRUPTED)
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        return _fail(_STOPPED, "", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- what signal handlers get
    """Leave as by any other error, so that temporary files go."""
    sys.exit(128 + number)


def _explain(error: Exception) -> int:
    """One message for an error, and its exit code."""
    if isinstance(error, LampqError):
        return _fail(error.message, error.hint, error.exit_code)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", "check the path, its permissions and the free space", 1)
    if isinstance(error, MemoryError):
        return _fail("out of memory", "use fewer calibration images at once, or a smaller model", 1)
    return _fail(f"internal error: {type(error).__name__}: {error}", "run again with --debug and report it", 1)


def _fail(message: str, hint: str, code: int) -> int:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False)
    if hint:
        console.print(f"  {hint}", markup=False)
    return code
