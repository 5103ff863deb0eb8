"""Print figures of the package's structure, to compare it before and after a change.

    python tools/structure.py                     # of this checkout
    python tools/structure.py ../other --list     # of another one, with the names behind the figures
    python tools/structure.py --json before.json  # also writes the figures to a file

A room is a folder of the package, or a module in its root. There is an arrow from one room to another if a module of
the first imports the second; several such imports are still one arrow.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

PACKAGE = "lampq_onnx"

LONG_FILE = 350
"""Lines; a file with more is listed."""

FEW_WORDS = 4
"""A docstring with fewer words says no more than its name does."""

Graph = Mapping[str, set[str]]
"""Name -> the names that it imports."""


@dataclass(frozen=True)
class Source:
    """One module of the package.

    Attributes:
        name: dotted, without the package's name; empty for the package itself.
        folder: whether it is the `__init__` of a folder.
        path: relative to the package.
        lines: number of lines.
        tree: its syntax tree.
    """

    name: str
    folder: bool
    path: Path
    lines: int
    tree: ast.Module

    @property
    def room(self) -> str:
        """The innermost folder that contains it; its own name if it is in the root."""
        return self.name if self.folder else self.name.rpartition(".")[0] or self.name

    @property
    def top_room(self) -> str:
        """The package's folder that contains it, also through inner folders; its own name if it is in the root."""
        return self.name.partition(".")[0]


def read_package(package: Path) -> list[Source]:
    """All modules of a package, by path.

    Raises:
        SystemExit: there is no package.
    """
    if not (package / "__init__.py").is_file():
        raise SystemExit(f"{package} is no Python package: it has no __init__.py")
    found = []
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package)
        folder = path.name == "__init__.py"
        parts = inner.parts[:-1] if folder else inner.with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        found.append(Source(".".join(parts), folder, inner, len(text.splitlines()), ast.parse(text)))
    return found


def imports_of(sources: Iterable[Source], package: str = PACKAGE) -> dict[str, set[str]]:
    """The modules that each module imports, in functions and for type checks too; `lampq_onnx` itself is left out."""
    known = {source.name: source for source in sources}
    graph: dict[str, set[str]] = {}
    for source in known.values():
        if source.name:
            named = (name for name in _imported(source.tree) if name.partition(".")[0] == package)
            graph[source.name] = {_module(name.partition(".")[2], known) for name in named} - {source.name}
    return graph


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(name: str, known: Mapping[str, Source]) -> str:
    """The longest part of a dotted name that is a module."""
    while name not in known:
        name = name.rpartition(".")[0]
    return name


def between_rooms(graph: Graph, room: Mapping[str, str]) -> dict[str, set[str]]:
    """The graph of rooms, without arrows of a room to itself."""
    rooms: dict[str, set[str]] = {room[name]: set() for name in graph}
    for name, others in graph.items():
        rooms[room[name]] |= {room[other] for other in others} - {room[name]}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Groups of names that each reach all others of the group, sorted."""
    reached = {name: _reached(name, graph) for name in graph}
    groups = {
        tuple(sorted({name, *(other for other in reached[name] if name in reached.get(other, set()))}))
        for name in graph
        if name in reached[name]
    }
    return sorted(list(group) for group in groups)


def _reached(start: str, graph: Graph) -> set[str]:
    seen: set[str] = set()
    front = list(graph.get(start, set()))
    while front:
        name = front.pop()
        if name not in seen:
            seen.add(name)
            front.extend(graph.get(name, set()))
    return seen


def uses_of_any(sources: Iterable[Source]) -> list[str]:
    """Find uses of the annotation Any, without imports."""
    return [
        f"{source.path}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name) and node.id == "Any"
    ]


def short_docstrings(sources: Iterable[Source]) -> list[str]:
    """Find docstrings with fewer words than FEW_WORDS."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None and len(text.split()) < FEW_WORDS:
                    found.append(f"{source.path}:{getattr(node, 'lineno', 1)}: {text}")
    return found


def options_in(help_text: str) -> list[str]:
    """List the options of a help page, each once; options that are only mentioned in other texts do not count."""
    lines = (re.match(r"[\s│|*]{0,6}(--[a-z][\w-]*)", line) for line in help_text.splitlines())
    return list(dict.fromkeys(match.group(1) for match in lines if match))


def quantize_help(repository: Path) -> str:
    """Run `quantize --help` of a checkout and return what it prints.

    Raises:
        SystemExit: it fails; the message is the command's own.
    """
    settings = {"PYTHONPATH": str(repository), "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, "quantize", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
        env={**os.environ, **settings},
    )
    if done.returncode:
        raise SystemExit(f"quantize --help fails in {repository}:\n{done.stderr.strip()}")
    return done.stdout


def measure(repository: Path) -> dict[str, list[str]]:
    """Map each figure to the names behind it; their number is the figure."""
    sources = read_package(repository / PACKAGE)
    graph = imports_of(sources)
    inner = between_rooms(graph, {source.name: source.room for source in sources})
    outer = between_rooms(graph, {source.name: source.top_room for source in sources})
    return {
        "modules in the root": [str(source.path) for source in sources if len(source.path.parts) == 1],
        "rooms": sorted(outer),
        "arrows between rooms": _arrows(outer),
        "rooms, inner folders counted": sorted(inner),
        "arrows between those": _arrows(inner),
        "circles of files": _texts(circles(graph)),
        "circles of rooms": _texts(circles(outer)),
        "circles of rooms, inner folders counted": _texts(circles(inner)),
        f"files of more than {LONG_FILE} lines": [f"{s.path} {s.lines}" for s in sources if s.lines > LONG_FILE],
        "uses of Any": uses_of_any(sources),
        "options in quantize --help": options_in(quantize_help(repository)),
        f"docstrings of fewer than {FEW_WORDS} words": short_docstrings(sources),
    }


def _arrows(rooms: Graph) -> list[str]:
    return sorted(f"{room} -> {other}" for room, others in rooms.items() for other in others)


def _texts(groups: list[list[str]]) -> list[str]:
    return [", ".join(group) for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "repository", nargs="?", type=Path, default=REPOSITORY, help="the checkout to examine; default: this one"
    )
    parser.add_argument("--list", action="store_true", help="print the names behind each figure")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    words = parser.parse_args()
    found = measure(words.repository.resolve())
    for title, names in found.items():
        print(f"{len(names):5}  {title}")
        if words.list:
            print(*(f"         {name}" for name in names), sep="\n")
    if words.json:
        words.json.write_text(json.dumps({title: len(names) for title, names in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
