"""A command on a terminal of a given size, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")


class Terminal:
    """A running command whose input, output and errors are one terminal.

    Args:
        words: words behind `lampq-onnx`.
        columns: width of the terminal.
        folder: working directory.
        python: runs the command.
    """

    def __init__(
        self, *words: str | Path, columns: int, folder: Path, python: Sequence[str] = (sys.executable,)
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [*python, "-m", "lampq_onnx", *map(str, words)],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
            env=known | {"TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        self.raw = ""

    def read_until(self, text: str, seconds: float = 120) -> None:
        """Read until a text appears."""
        end = time.monotonic() + seconds
        while text not in self.raw:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not appear: {self.raw[-2000:]}")

    def send(self, text: str) -> None:
        """Type a text on the keyboard."""
        os.write(self._ours, text.encode())

    def finish(self, seconds: float = 240) -> str:
        """Read to the end; return what stays on the screen, without colours."""
        self.wait(seconds)
        return screen(self.raw)

    def wait(self, seconds: float = 240) -> None:
        """Read to the end."""
        end = time.monotonic() + seconds
        while self._read(end - time.monotonic()):
            pass
        self.process.wait(30)
        os.close(self._ours)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(seconds, 0))
        if not ready:
            self.process.kill()
            raise AssertionError(f"no end after its time: {self.raw[-2000:]}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


def screen(raw: str, *, colours: bool = False) -> str:
    """What stays on the screen: lines that were erased and drawn again are gone.

    Args:
        raw: what was written.
        colours: keep the codes of colours and bold letters.
    """
    lines = [""]
    for part in re.split(r"(\r\n|\r|\x1b\[[0-9;?]*[A-Za-z])", raw):
        if part == "\r\n":
            lines.append("")
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif part == "\x1b[1A":
            lines.pop()
            lines = lines or [""]
        elif part == "\r":
            pass
        elif not ESCAPE.fullmatch(part) or (colours and part.endswith("m")):
            lines[-1] += part if colours else ESCAPE.sub("", part)
    return "\n".join(line.rstrip() for line in lines)
