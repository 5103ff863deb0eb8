"""Programs that start at once: each is forked from one process that has imported PyTorch and the package.

A fork is a process of its own: its folder, environment, streams and exit code are those of its caller. What is imported
is shared, and this is the part that takes seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kept_exports import EXPORTS_VARIABLE, keep_exports

IMPORTED = ("torch", "timm", "onnx", "onnxruntime", "sklearn.datasets", "plotly.graph_objects", "PIL.Image")
"""What the first process imports beside the package. It computes nothing, since threads do not survive a fork."""

TEST_IMAGES = 40
"""Of the embedded model's 500, in its programs."""

STREAMS = 3
"""Standard input, output and error."""

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    request = json.dumps({"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(door, [len(request).to_bytes(4, "big")], [0, 1, 2])
    door.sendall(request)
    code = door.recv(1)
sys.exit(code[0] if code else "the forked program ended without an exit code")
"""
"""The program that a caller starts: address, then `-m lampq_onnx` or `-c TEXT` with the words that follow."""


class PreparedPython:
    """Starts the first process, and stops it at the end of a `with` block.

    Args:
        folder: where its socket lies.
        environment: of the first process; settings that are read by imports must be in it.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._address = str(folder / "door")
        self._environment = environment

    def __enter__(self) -> Self:
        """Wait until everything is imported."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._address],
            env=self._environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the first process; its forks are over by then, since callers wait for them."""
        self._process.terminate()
        self._process.wait()

    @property
    def command(self) -> list[str]:
        """Use in the place of ``[sys.executable]``, with `-m lampq_onnx` or `-c TEXT` behind it."""
        return [sys.executable, "-I", "-S", "-c", CLIENT, self._address]


def _serve(address: str) -> None:
    package = importlib.import_module("lampq_onnx")
    own = (module.name for module in pkgutil.walk_packages(package.__path__, "lampq_onnx."))
    for name in (*IMPORTED, *own):
        importlib.import_module(name)
    importlib.import_module("lampq_onnx.runtime.environment").cpu_name()  # asks other programs, and remembers
    _take_fewer_digits(importlib.import_module("lampq_onnx.frontend.models.digits"))
    keep_exports(Path(os.environ[EXPORTS_VARIABLE]))
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        while True:
            connection, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _answer(connection)
            connection.close()
            _forget_ended()


def _take_fewer_digits(digits: Any) -> None:
    whole = digits.split_images

    def fewer(name: str) -> Any:
        return tuple(array[:TEST_IMAGES] for array in whole(name)) if name == "test" else whole(name)

    digits.split_images = fewer


def _forget_ended() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass  # no fork is left


def _answer(connection: socket.socket) -> None:
    """Run one program in this process, send its exit code, and end."""
    size, streams, _, _ = socket.recv_fds(connection, 4, STREAMS)
    length = int.from_bytes(size, "big")
    text = b""
    while len(text) < length:
        text += connection.recv(length - len(text))
    request = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code = _run(request["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(code)


def _run(words: list[str]) -> int:
    kind, what, *rest = words
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest]
            main: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(what, "<string>", "exec"), main)
        else:
            sys.argv = [what, *rest]
            importlib.import_module(f"{what}.__main__").main()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
