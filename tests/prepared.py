"""Programs that start at once: each is forked from one process that has imported PyTorch and the package.

The workers of a run of the tests are such programs too.

A fork is a process of its own: its folder, environment, streams and exit code are those of its caller, who can stop it
with Ctrl-C or terminate it. On Linux it also ends with what its caller started, and with the first process, which ends
with the one that started it; all of them, however they end. What is imported is shared, and this is the part that takes
seconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lampq_onnx
from tests.kept_exports import EXPORTS_VARIABLE, keep_exports, keep_no_exports

IMPORTED = (
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "torch.onnx._internal.exporter._core",
    "onnxscript.optimizer",
    "onnxscript.rewriter",
    "highspy",
    "PIL.Image",
    "jinja2",
    "plotly.graph_objects",
    "plotly.validators",
    "rich.live",
    "rich.progress",
    "rich.table",
    "rich.traceback",
    "scipy.optimize",
    "typer.rich_utils",
)
"""What the first process imports besides the package. It computes nothing, since threads do not survive a fork."""

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl`: the signal that a process gets when its parent ends (linux/prctl.h)."""

FEWER_DIGITS = "LAMPQ_TESTS_DIGITS"
"""How many of the embedded model's 500 test images a program has; not set: all."""

FEWER_BLOCKS = "LAMPQ_TESTS_BLOCKS"
"""How many of its 6 blocks timm's `test_vit` has in a program; not set: all."""

STREAMS = 3
"""Standard input, output and error."""

UNBUFFERED = "-u"
"""Workers of pytest-xdist start with it, and write their streams by themselves."""

CLIENT = """
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    request = json.dumps({"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(door, [len(request).to_bytes(4, "big")], [0, 1, 2])
    door.sendall(request)
    program = int.from_bytes(door.recv(4), "big")
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda number, frame: os.kill(program, number))
    code = door.recv(1)
sys.exit(code[0] if code else "the forked program ended without an exit code")
"""
"""The program that a caller starts: address, then `-m MODULE`, `-c TEXT` or a file, with the words that follow.

It hands Ctrl-C and the signal to terminate on to the fork.
"""


class PreparedPython:
    """Starts programs by asking the first process.

    Args:
        address: where its socket is.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def command(self) -> list[str]:
        """Use in the place of ``[sys.executable]``, with `-m MODULE`, `-c TEXT` or a file behind it."""
        return [sys.executable, "-I", "-S", "-c", CLIENT, self.address]

    @property
    def program(self) -> str:
        """An executable file that is the same as `command`."""
        file = Path(self.address).with_name("python")
        if not file.exists():
            own = file.with_suffix(f".{os.getpid()}")
            own.write_text(f'#!/bin/sh\nexec {shlex.join(self.command)} "$@"\n', encoding="utf-8")
            own.chmod(0o755)
            own.replace(file)
        return str(file)


@contextmanager
def prepare(folder: Path) -> Iterator[PreparedPython]:
    """Start the first process, and stop it at the end of the block; on Linux, forks that still run end with it.

    It has a session of its own: Ctrl-C on a terminal reaches forks through their callers alone.

    Args:
        folder: where its socket lies.

    Yields:
        What asks the process, when everything is imported.
    """
    address = str(folder / "door")
    words = [sys.executable, "-m", __name__, address]
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said == "ready\n", f"the first process said {said!r} where it is ready"
            yield PreparedPython(address)
        finally:
            process.terminate()


def environment() -> dict[str, str]:
    """The environment of this process, in which other programs find the package and the tests, and use one thread."""
    roots = (Path(lampq_onnx.__file__).parents[1], Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}


def _serve(address: str) -> None:
    _end_with_parent()
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from lampq_onnx.frontend.models.export import OPSET
    from lampq_onnx.runtime.environment import cpu_name

    package = (module.name for module in pkgutil.walk_packages(lampq_onnx.__path__, "lampq_onnx."))
    for name in (*IMPORTED, *(name for name in package if not name.endswith("__main__"))):
        importlib.import_module(name)
    cpu_name()  # asks other programs, and remembers
    keep_exports(Path(os.environ[EXPORTS_VARIABLE]))
    ONNXRegistry.from_torchlib(opset_version=OPSET)  # and is kept, as are these:
    utils._collect_all_valid_cia_ops()
    _use()
    collect_rarely()
    if sys.platform == "linux":
        threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
        assert len(threads) == 1, f"forks would lack all but the first of these threads: {threads}"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        while True:
            connection, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _end_with_parent()
                _answer(connection)
            connection.close()
            _forget_ended()


def _end_with_parent() -> None:
    """On Linux, let this process be killed when the one that started it ends."""
    if sys.platform == "linux":
        assert ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0


def _end_with_caller(connection: socket.socket) -> None:
    """On Linux, let this process be killed when the other end of the connection closes: SIGIO does so."""
    if sys.platform == "linux":
        fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)


def take_fewer_digits(count: int) -> None:
    """Leave this many of the embedded model's test images, in this process."""
    from lampq_onnx.frontend.models import digits

    whole = digits.split_images
    setattr(  # noqa: B010 (its type is that of the function)
        digits, "split_images", lambda name: tuple(a[:count] for a in whole(name)) if name == "test" else whole(name)
    )


def collect_rarely() -> None:
    """Let the collector of garbage pass over what there is now, and look at the rest when there is much of it.

    The exporter makes many small objects that it keeps: looking at them at each turn takes a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _use() -> None:
    """Make what commands make when they first need it, with what this imports: options, templates, plots, formats."""
    import plotly.graph_objects as go
    from PIL import Image

    from lampq_onnx.cli.main import program
    from lampq_onnx.html import page

    commands = dict(program().commands)  # reading them loads them
    commands["quantize"].make_context("quantize", ["digits"])
    Image.init()
    for name in page._environment().list_templates(extensions=["html"]):
        page._environment().get_template(name)
    page.figure("plot", go.Figure(go.Heatmap()), "", height=100).plot.to_plotly_json()


def _take_fewer_blocks(count: int) -> None:
    from timm.models import _registry

    whole = _registry._model_entrypoints["test_vit"]
    _registry._model_entrypoints["test_vit"] = functools.partial(whole, depth=count)


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
    _end_with_caller(connection)
    connection.sendall(os.getpid().to_bytes(4, "big"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job would ignore it
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if not os.environ.get(EXPORTS_VARIABLE):
        keep_no_exports()
    if FEWER_DIGITS in os.environ:
        take_fewer_digits(int(os.environ[FEWER_DIGITS]))
    if FEWER_BLOCKS in os.environ:
        _take_fewer_blocks(int(os.environ[FEWER_BLOCKS]))
    code = _run(request["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(code)


def _run(words: list[str]) -> int:
    kind, *rest = words[1:] if words[0] == UNBUFFERED else words
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
