"""Time and peak memory of every stage of `quantize`, for models of several sizes and numbers of images.

    python -m tools.bench.scale stages --shapes Ti,S,B,L --counts 16 --record cpu.jsonl --limit 3600
    python -m tools.bench.scale stages --shapes Ti --counts 64,256,1024 --record cpu.jsonl
    python -m tools.bench.scale stages --shapes B,L --counts 128 --device cuda --record gpu.jsonl
    python -m tools.bench.scale stages --show cpu.jsonl more.jsonl       # the tables of recorded runs, nothing measured

Models are timm's Vision Transformers with random weights, images are noise; a shape may also be timm's name of one,
such as vit_large_patch14_clip_224. `digits` is the embedded model with its own images. Every run is a process of its
own, and so is the dry run before it, whose estimate is printed beside the times. Memory is resident memory, read every
10 ms, and on a GPU also the most that torch allocated there. After the run the process passes the same images forward
and backward through the float model (`pass`): times of machines differ, ratios to this one differ less. The last
columns are exponents of the time: over the number of images, between runs of one shape, and over the number of
parameters, between runs on as many images.

Runs in the file of `--record` are not measured again if setting, machine and code are the same, so a program that was
stopped goes on with the next run. A run over `--limit` is stopped; its finished stages are printed, none if it was the
dry run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lampq_onnx.workflow.provenance import code_sha256
from tools.bench.stage_run import label, machine, options_parser, setting
from tools.bench.stage_table import Run, show

ROOT = Path(__file__).resolve().parents[2]
OVER = "over {limit:g} s, in: {stage}"
"""Why a run was stopped that reached the limit."""
DRY_RUN = "dry run"
"""Where a run was stopped before its first stage."""


def lines_of(words: Sequence[str], limit: float) -> tuple[str, int | None]:
    """Run a program that prints lines of JSON.

    Args:
        words: module and its arguments.
        limit: seconds after which it is ended.

    Returns:
        Its last line of JSON, empty if there was none; and its exit code, None if it was over the limit.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    last, over = "", threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None

        def end_group() -> None:
            """End the program and the processes that it started, which may outlive it."""
            with contextlib.suppress(ProcessLookupError):  # none is left
                os.killpg(process.pid, signal.SIGKILL)

        def end() -> None:
            if process.poll() is None:
                over.set()
            end_group()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith('{"label"'):
                    last = line
            process.wait()  # it may close its output before it ends
        except BaseException:
            end_group()
            raise
        finally:
            timer.cancel()
    return last, None if over.is_set() else process.returncode


def run_one(shape: str, count: int, options: argparse.Namespace) -> Run:
    """Ask for the estimate of one quantization and measure it, each in a process of its own.

    Raises:
        SystemExit: the dry run failed, or the quantization before its first stage.
    """
    words = [shape, str(count)]
    for option in ("bits", "effort", "device", "threads", "clock"):
        words += [f"--{option}", str(getattr(options, option))]
    program = "tools.bench.stage_run"
    expected, code = lines_of([program, "predict", *words], options.limit)
    if code is None:
        stopped = OVER.format(limit=options.limit, stage=DRY_RUN)
        wanted = Run(label(shape, count), setting(options), 0, count, machine=machine(options.device))
        return replace(wanted, code=code_sha256(), stopped=stopped, limit=options.limit)
    if code:
        raise SystemExit(f"{label(shape, count)}: the dry run ended with {code}")
    predicted = Run(**json.loads(expected))
    last, code = lines_of([program, "measure", *words], options.limit)
    if not last:
        raise SystemExit(f"{label(shape, count)}: exit code {code}, nothing was measured")
    run = Run(**json.loads(last))
    stage = run.stage or "between stages"
    if code is None:
        run = replace(run, stopped=OVER.format(limit=options.limit, stage=stage), limit=options.limit)
    elif code:
        run = replace(run, stopped=f"exit code {code}, in: {stage}")
    return replace(run, predicted=predicted.predicted, predicted_mb=predicted.predicted_mb)


def read(*paths: Path) -> list[Run]:
    """Return the runs in files, in their order."""
    return [
        Run(**json.loads(line))
        for path in paths
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def known_run(known: Sequence[Run], wanted: Run, limit: float) -> Run | None:
    """Return the latest of the known runs that need not be measured again.

    Args:
        known: runs of a file, in their order.
        wanted: label, setting, machine and code.
        limit: seconds that a run may take now; one that was stopped earlier is measured again.
    """
    for run in reversed(known):
        same = all(getattr(run, name) == getattr(wanted, name) for name in ("label", "setting", "machine", "code"))
        if same and (not run.stopped or limit <= run.limit):
            return run
    return None


def main(words: Sequence[str] | None = None) -> None:
    parser = options_parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="Ti,S")
    parser.add_argument("--counts", default="64")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds of one run, after which it is stopped")
    parser.add_argument("--record", type=Path, help="keep every run in this file, a line of JSON each")
    parser.add_argument("--show", type=Path, nargs="+", help="print the tables of the runs in these files")
    options = parser.parse_args(words)
    if options.show:
        runs = read(*options.show)
        for first in dict.fromkeys((run.machine, run.setting) for run in runs):
            print(f"{'; '.join(first)}\n")
            show([run for run in runs if (run.machine, run.setting) == first])
        return
    wanted = Run("", setting(options), 0, 0, machine=machine(options.device), code=code_sha256())
    print(f"{wanted.machine}; {wanted.setting}\n", flush=True)
    runs = []
    for shape in options.shapes.split(","):
        for count in map(int, options.counts.split(",")):
            known = read(options.record) if options.record else []
            run = known_run(known, replace(wanted, label=label(shape, count)), options.limit)
            if run is None:
                run = run_one(shape, count, options)
                if options.record:
                    with options.record.open("a", encoding="utf-8") as record:
                        record.write(json.dumps(asdict(run)) + "\n")
            runs.append(run)
            print(f"{run.label}: {run.stopped or f'{run.whole:.0f} s'}", file=sys.stderr, flush=True)
    show(runs)


if __name__ == "__main__":
    main()
