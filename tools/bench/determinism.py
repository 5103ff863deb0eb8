"""Whether quantize gives the same bytes on one thread and on two.

    python tools/bench/determinism.py digits --effort fast --effort balanced
    python tools/bench/determinism.py -- deit_tiny_patch16_224 --checkpoint W --calibration C --validation V

Every run is a process of its own without results of earlier ones; compared are the files that hold no times.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import run_tool
from lampq_onnx.errors import LampqError
from lampq_onnx.files import FLOAT_FILE, MODEL_FILE, PLAN_FILE, WEIGHTS_FILE

THREADS = (1, 2)
FILES = (PLAN_FILE, WEIGHTS_FILE, FLOAT_FILE, MODEL_FILE)
"""Of quantize, without times in them."""


def digests(words: list[str], threads: int) -> dict[str, str]:
    """sha256 of each of FILES after a run.

    Raises:
        LampqError: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        output = Path(room, "out")
        command = [sys.executable, "-m", "lampq_onnx", "quantize", *words]
        command += ["--threads", str(threads), "--latency-runs", "1", "--output", str(output)]
        environment = {**os.environ, "LAMPQ_ONNX_CACHE": str(Path(room, "cache"))}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if found.returncode:
            raise LampqError(f"{' '.join(command)}: exit code {found.returncode}\n{found.stderr[-1000:]}")
        return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in FILES}


def main(
    words: Annotated[list[str], typer.Argument(help="What quantize gets: the model, and after -- its options.")],
    effort: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    """Print a table; exit code 1 where bytes differ."""
    same = True
    print(f"| model | effort | {' | '.join(FILES)} |\n|---|---|{'---|' * len(FILES)}", flush=True)
    for name in effort or ["fast"]:
        one, *others = [digests([*words, "--effort", name], count) for count in THREADS]
        equal = {file: all(other[file] == one[file] for other in others) for file in FILES}
        same &= all(equal.values())
        cells = (f"{one[file][:12]}, same" if equal[file] else "differs" for file in FILES)
        print(f"| {words[0]} | {name} | {' | '.join(cells)} |", flush=True)
    if not same:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_tool(main)
