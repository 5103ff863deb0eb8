"""The entry point: all commands in their order, and the handling of errors."""

from __future__ import annotations

import functools
import signal
import sys
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Annotated, Any

import typer
from typer.main import get_command

from lampq_onnx.cli.collector import expect_end, expect_imports
from lampq_onnx.cli.command_list import STYLE, CommandGroup, Listed
from lampq_onnx.cli.interrupt import expect_interrupt, is_kept
from lampq_onnx.errors import INTERRUPTED, LampqError, is_out_of_memory

NAME = "lampq-onnx"

COMMANDS: Mapping[str, Mapping[str, Listed]] = {
    "Quantize and check": {
        "quantize": Listed("commands", "Quantize a model and check the file: accuracy, size and latency."),
        "sweep": Listed("sweep", "Quantize to several budgets, and compare size and accuracy."),
        "validate": Listed("stages", "Compare a quantized file with its float file: accuracy, size and latency."),
        "compare": Listed("compare", "Compare two results: accuracy, size, speed, widths and changed answers."),
        "report": Listed("report", "Draw report.html from report.json: one page that opens offline."),
        "inspect": Listed("stages", "List the quantized layers of a file: type, bits, storage, bytes, scheme."),
        "explain": Listed(
            "explain",
            "Show the kernel that a runtime executes for each layer, its time, and why it is not an integer kernel.",
        ),
        "bench": Listed("bench", "Check each layer of a file on this CPU and time the file: one row of a table."),
        "package": Listed(
            "package",
            "Write a quantized model for a server, a device or the web, in a format of `lampq-onnx list formats`.",
        ),
    },
    "Single stages": {
        "analyze": Listed("commands", "Measure how sensitive each layer is, and write sensitivity.json."),
        "allocate": Listed("stages", "Choose a bit-width for each layer within the budgets, and write plan.json."),
        "probe": Listed("probe", "Time the layers on this machine, for --max-latency of allocate and quantize."),
        "convert": Listed("stages", "Write the quantized ONNX file of a plan."),
    },
    "Setup and recipes": {
        "init": Listed("recipes", "Write a recipe: a TOML file with every option, its default and what it does."),
        "doctor": Listed(
            "doctor",
            "Check the environment, and that the export and the preprocessing of a model keep its accuracy.",
        ),
        "list": Listed("listing", "List the names that options take, each with what it is.", "list_names"),
        "cache": Listed("recipes", "Show the results that are kept between runs, or remove them."),
        "reproduce": Listed(
            "recipes", "Make a quantized file again from the recipe inside it, and compare the two bit for bit."
        ),
        "schema": Listed("stages", "Print the JSON schema of plan.json, sensitivity.json or report.json."),
    },
}
"""Heading of `lampq-onnx --help` -> commands in the order in which people use them."""

FIRST_STEPS = f"""{NAME} compresses a trained Vision Transformer to 1-8 bits per layer:
a model in, a standard ONNX file out.

Start with:
  {NAME} quantize                         quantize the embedded example
  {NAME} init                             a recipe for your own model
  {NAME} doctor MODEL                     check your model first
  {NAME} sweep MODEL --output sweep       compare several budgets
  {NAME} package out --format triton      the result, for a server

All commands:             {NAME} --help
Options of a command:     {NAME} quantize --help
Names that options take:  {NAME} list
"""
"""What the program prints without a command."""


class _Commands(CommandGroup):
    table = COMMANDS


app = typer.Typer(
    name=NAME,
    cls=_Commands,
    help="Compress a trained Vision Transformer to 1-8 bits per layer: a model in, a standard ONNX file out.",
    **STYLE,
)

_STOPPED = "interrupted; no file is half written, and what was there before is as it was"
_KEPT = "interrupted; finished stages are kept, and the same command goes on from there"


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[  # noqa: ARG001  `run` has taken it out of the words, wherever it stood
        bool, typer.Option("--debug", help="Show the traceback of an error; works with every command.")
    ] = False,
) -> None:
    """Compress a trained Vision Transformer to 1-8 bits per layer: a model in, a standard ONNX file out."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("lampq-onnx"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(FIRST_STEPS, nl=False)


@functools.cache
def program() -> Any:
    """`app` as what reads words, made once: this takes longer than reading them."""
    return get_command(app)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    expect_interrupt()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if arguments is not None:
        sys.exit(_run(words, debug=debug))
    signal.signal(signal.SIGTERM, _terminate)
    expect_imports()
    code = _run(words, debug=debug)
    expect_end()
    sys.exit(code)


def _run(words: list[str], *, debug: bool) -> int:
    try:
        program()(words, prog_name=NAME)
    except SystemExit as done:  # Typer's way to end, wrong usage (2) and Ctrl-C (130) included
        if done.code == INTERRUPTED:
            return _interrupted()
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)
    return 0


def _interrupted() -> int:
    """Print what is left after Ctrl-C; the exit code."""
    return _fail(_KEPT, "", INTERRUPTED) if is_kept() else _fail(_STOPPED, "", INTERRUPTED)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- what signal handlers get
    """Leave as after any other error, so that temporary files are removed."""
    sys.exit(128 + number)


def _explain(error: Exception) -> int:
    """Print one message for an error; the exit code."""
    if isinstance(error, LampqError):
        return _fail(error.message, error.hint, error.exit_code)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", "check the path, its permissions and the free space", 1)
    if is_out_of_memory(error):
        return _fail("out of memory", "use fewer calibration images at once, or a smaller model", 1)
    return _fail(f"internal error: {type(error).__name__}: {error}", "run again with --debug and report it", 1)


def _fail(message: str, hint: str, code: int) -> int:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False)
    if hint:
        console.print(f"  {hint}", markup=False)
    return code
