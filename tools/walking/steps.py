"""Run the steps of a walk: real commands, with their time and what they leave behind."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.look import NO_BROWSER

TAIL = 30
"""Lines of a failed step that are shown again."""


class Failure(Exception):
    """A step failed, or did not show what it should."""


@dataclass(frozen=True)
class Step:
    """One command of the walk.

    Attributes:
        name: what the user wants; empty: a part of the step before.
        words: the command, or what makes it when its turn comes.
        expected: exit code.
        before: prepares files.
        check: looks at what was written, says it in some words, and raises Failure where it is not right.
        browser: skipped where there is no browser.
    """

    name: str
    words: list[str] | Callable[[], list[str]]
    expected: int = 0
    before: Callable[[], None] | None = None
    check: Callable[[], str] | None = None
    browser: bool = False


@dataclass(frozen=True)
class Taken:
    """A finished step: seconds in all, the longest time in which it printed nothing, and what was seen."""

    name: str
    words: list[str]
    seconds: float
    silence: float
    code: int
    seen: str


@dataclass
class Walk:
    """Runs steps in a folder, with the programs of one environment before all others.

    Attributes:
        folder: current folder of every step; its caches are in here as well, so that no step finds earlier work.
        binaries: of the environment.
        taken: the steps so far.
    """

    folder: Path
    binaries: Path
    taken: list[Taken] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Run a step, and check it.

        Raises:
            Failure: another exit code than expected, or something is missing.
        """
        if step.before:
            step.before()
        words = step.words() if callable(step.words) else step.words
        print(f"\n## {step.name}\n$ {self.shown(words)}", flush=True)
        try:
            code, seconds, silence, lines = self._run(words)
        except OSError as error:
            self.taken.append(Taken(step.name, words, 0.0, 0.0, -1, "FAILED"))
            raise Failure(f"{step.name}: {words[0]} cannot be run: {error}") from error
        seen = ""
        if step.browser and code == NO_BROWSER:
            seen = f"skipped: {lines[-1]}"
        elif code != step.expected:
            self.taken.append(Taken(step.name, words, seconds, silence, code, "FAILED"))
            tail = "\n".join(lines[-TAIL:])
            raise Failure(f"{step.name}: exit code {code}, expected {step.expected}\n{tail}")
        elif step.check:
            try:
                seen = step.check()
            except Failure:
                self.taken.append(Taken(step.name, words, seconds, silence, code, "FAILED"))
                raise
        print(f"-> {code} after {seconds:.1f} s {seen}".rstrip(), flush=True)
        self.taken.append(Taken(step.name, words, seconds, silence, code, seen))

    def _run(self, words: list[str]) -> tuple[int, float, float, list[str]]:
        """Exit code, seconds, longest silence, and all lines of both streams, which are shown as they come."""
        lines: list[str] = []
        start = last = time.monotonic()
        silence = 0.0
        with subprocess.Popen(
            words, cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                now = time.monotonic()
                silence, last = max(silence, now - last), now
                lines.append(line.rstrip())
                print(f"    {lines[-1]}", flush=True)
        now = time.monotonic()
        return process.returncode, now - start, max(silence, now - last), lines

    def _environment(self) -> dict[str, str]:
        """Environment variables: the caller's, with this environment's programs first and separate caches."""
        return os.environ | {
            "PATH": f"{self.binaries}{os.pathsep}{os.environ['PATH']}",
            "LAMPQ_ONNX_CACHE": str(self.folder / "cache"),
            "COLUMNS": "120",
        }

    def shown(self, words: list[str]) -> str:
        """The command as a person types it in the folder."""
        places = {
            str(self.folder) + os.sep: "",
            str(self.binaries) + os.sep: "",
            str(Path(__file__).parents[2]): "CHECKOUT",
            sys.executable: "python",
        }
        line = shlex.join(words)
        for place, short in places.items():
            line = line.replace(place, short)
        return line

    def table(self) -> str:
        """Format all steps as Markdown."""
        rows = []
        for one in self.taken:
            cells = [one.name, f"`{_short(self.shown(one.words))}`", f"{one.seconds:.1f}", f"{one.silence:.1f}"]
            rows.append(f"| {' | '.join(_cell(text) for text in (*cells, str(one.code), one.seen))} |")
        total = sum(one.seconds for one in self.taken)
        head = ["| step | command | s | longest silence, s | exit | seen |", "|---|---|---|---|---|---|"]
        last = f"{total:.0f} s in all; {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        return "\n".join([*head, *rows, "", last])


def _short(line: str, most: int = 60) -> str:
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def processor() -> str:
    """Name of the processor, if the system gives one."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
