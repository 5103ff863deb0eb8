"""`list`: the names that options take, and what each of them is."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from lampq_onnx.cli.names import ALL_TABLES, MODELS, completion_of, model_names
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import FLOAT, TARGETS, Kernel, Target

Row = Mapping[str, str]
"""Heading of the column -> what stands in it."""


def list_names(
    what: Annotated[
        str | None,
        typer.Argument(
            help=f"What to list: {', '.join(ALL_TABLES)} or {MODELS}.",
            metavar="WHAT",
            show_default=False,
            autocompletion=completion_of(lambda: dict.fromkeys((*ALL_TABLES, MODELS), "")),
        ),
    ] = None,
    pattern: Annotated[
        str, typer.Argument(help='Only names that fit, e.g. "*deit*".', metavar="PATTERN", show_default=False)
    ] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the names that options take, each with what it is.

    Without WHAT: what can be listed. The names of models are those that timm can build, besides the embedded model.
    """
    rows = [row for row in _rows(what) if fnmatchcase(row["name"], pattern)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif what == MODELS:
        typer.echo("\n".join(row["name"] for row in rows))
    else:
        _print(rows)
    if not rows:
        raise UsageError(
            f"none of the {what or 'lists'} fits {pattern!r}",
            hint="write * for any text, or leave the pattern out",
        )


def _rows(what: str | None) -> list[Row]:
    """What is to be listed.

    Raises:
        UsageError: there is no such list.
    """
    special: Mapping[str, Callable[[], Iterable[Row]]] = {"targets": _targets, MODELS: _models}
    if what is None:
        found = {name: ", ".join(names()) for name, names in ALL_TABLES.items()}
        found[MODELS] = f"{DIGITS}, and all models of timm"
        return [{"name": name, "names": names} for name, names in found.items()]
    if what in special:
        return list(special[what]())
    if what not in ALL_TABLES:
        near = difflib.get_close_matches(what, (*ALL_TABLES, MODELS), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join((*ALL_TABLES, MODELS))}"
        raise UsageError(f"there is no list of {what!r}", hint=hint)
    return [{"name": name, "what it is": summary} for name, summary in ALL_TABLES[what]().items()]


def _targets() -> Iterable[Row]:
    for name, runtime in ALL_TABLES["targets"]().items():
        target = TARGETS.get(name)
        yield {
            "name": name,
            "runs in": runtime,
            "device": "" if target is None else target.device,
            "weight bits / input bits": "" if target is None else _widths(target),
            "storages": "" if target is None else ", ".join(target.packings),
            "scales of weights": "" if target is None else _scales(target),
            "other numbers": "" if target is None else "float16" if target.half else "float32",
            "batch": "" if target is None else str(target.batch or "any"),
            "opset up to": "" if target is None else str(target.opset),
            "runs here in": "" if target is None else target.runner or "nothing",
            "verified": "" if target is None else _verified(target),
        }


def _scales(target: Target) -> str:
    return "by channel" if target.block is None else f"by blocks of {target.block} inputs"


def _verified(target: Target) -> str:
    found = target.verified
    return "no: from documentation" if found is None else f"{found.version}, {found.date}: {found.check}"


def _widths(target: Target) -> str:
    return "; ".join(_kernel(kernel) for kernel in target.kernels)


def _kernel(kernel: Kernel) -> str:
    return f"{_span(kernel.weights)} / {_span(kernel.activations)} ({kernel.kind} kernel)"


def _span(widths: tuple[int, ...]) -> str:
    whole = tuple(width for width in widths if width != FLOAT)
    if len(whole) > 2 and whole == tuple(range(whole[0], whole[-1] + 1)):
        words = [f"{whole[0]}-{whole[-1]}"]
    else:
        words = [str(width) for width in whole]
    return ", ".join(words + ["float"] * (FLOAT in widths))


def _models() -> Iterable[Row]:
    yield {"name": DIGITS}
    for name in model_names():
        yield {"name": name}


def _print(rows: list[Row]) -> None:
    from lampq_onnx.cli.columns import console, print_table, words

    if rows:
        # Where the terminal is narrow, the last columns are left out.
        columns = [words(column, max(place - 1, 0)) for place, column in enumerate(rows[0])]
        print_table(console(), columns, [tuple(row.values()) for row in rows])
