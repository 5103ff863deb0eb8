"""Time and peak memory of every stage of `quantize`, for models of several sizes and numbers of images.

    python tools/bench/scale.py stages --shapes Ti,S,B --counts 64 --bits 8 --effort fast
    python tools/bench/scale.py stages --shapes Ti --counts 64,128,256 --bits 4 --effort balanced
    python tools/bench/scale.py stages --shapes B,L --counts 128 --device cuda --record runs.jsonl
    python tools/bench/scale.py stages --show runs.jsonl more.jsonl      # the table of recorded runs, nothing measured

Models are timm's Vision Transformers with random weights, images are noise; `digits` is the embedded model with its own
images. Every run is a process of its own. Memory is resident memory, read every 10 ms, and on a GPU also the most that
torch allocated there. After the run the process passes the same images forward and backward through the float model
(`pass`): times of machines differ, ratios to this one differ less. It then asks for the estimate that `--dry-run`
prints. The last columns are exponents of the time: over the number of images, between runs of one shape, and over the
number of parameters, between runs on as many images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lampq_onnx.runtime.environment import describe_environment

if TYPE_CHECKING:
    import torch

    from lampq_onnx.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20
NAMES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
CLASSES, SIDE = 1000, 224
VALIDATION = 16
BATCH = 32
"""Images in one pass forward and backward."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Processor time of all threads hardly depends on what else runs on a machine."""

CHECKS = ("validation", "fidelity", "latency", "conversion", "output errors")
"""Stages behind the front end: the file is written and checked in the runtime."""


@dataclass
class Run:
    """What was measured of one quantization.

    Attributes:
        label: shape and number of images.
        setting: widths, effort, device and threads.
        parameters: number of parameters of the model.
        images: number of calibration images.
        seconds: stage -> wall time.
        peaks: stage -> largest resident memory, MB.
        device: stage -> most memory that torch allocated on the GPU, MB.
        passes: seconds of a float pass forward and backward over the calibration images.
        predicted: stage -> seconds that a dry run expects.
        predicted_mb: memory that a dry run expects.
        imports: seconds until the command's modules are imported.
    """

    label: str
    setting: str
    parameters: int
    images: int
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    device: dict[str, float] = field(default_factory=dict)
    passes: float = 0.0
    predicted: dict[str, float] = field(default_factory=dict)
    predicted_mb: float = 0.0
    imports: float = 0.0

    @property
    def front(self) -> float:
        """Seconds of the front end: all stages but the checks of the file."""
        return math.fsum(s for stage, s in self.seconds.items() if stage not in CHECKS)


class Sampler:
    """A sink of progress that keeps the seconds and the largest memory of every stage.

    Args:
        cuda: keep the memory on the GPU too.
        clock: a key of `CLOCKS`.
        finished: called after every stage.
    """

    def __init__(self, *, cuda: bool = False, clock: str = "wall", finished: Callable[[], None] = lambda: None) -> None:
        self._clock = CLOCKS[clock]
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self.device: dict[str, float] = {}
        self._open: list[str] = []
        self._cuda = cuda
        self._finished = finished
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            used = resident()
            for name in tuple(self._open):
                self.peaks[name] = max(self.peaks.get(name, 0.0), used)
            time.sleep(0.01)

    def _allocated(self) -> None:
        """Give what torch allocated since the last call to all open stages."""
        if not self._cuda:
            return
        import torch

        torch.cuda.synchronize()
        used = torch.cuda.max_memory_allocated() / MEGABYTE
        for name in self._open:
            self.device[name] = max(self.device.get(name, 0.0), used)
        torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:  # noqa: ARG002 -- of the protocol
        self._allocated()
        self.peaks[name] = max(self.peaks.get(name, 0.0), resident())
        self._open.append(name)
        start = self._clock()
        try:
            yield lambda _: None
        finally:
            self._allocated()
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start
            self._open.remove(name)
            self._finished()


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def measure(shape: str, count: int, options: argparse.Namespace) -> None:
    """Run one quantization, and print its figures as a line of JSON whenever more of them are known."""
    start = time.perf_counter()
    import torch

    from lampq_onnx.frontend.shared.compiler import load_compiler
    from lampq_onnx.workflow.quantize import quantize, recognize

    load_compiler()
    imports = time.perf_counter() - start
    cuda = options.device != "cpu"
    setting = _setting(options)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as room:
        recipe, parameters = _subject(shape, count, options, Path(room))
        run = Run(f"{shape}, {count}", setting, parameters, count, imports=imports)
        sampler = Sampler(cuda=cuda, clock=options.clock, finished=lambda: print(json.dumps(asdict(run)), flush=True))
        run.seconds, run.peaks, run.device = sampler.seconds, sampler.peaks, sampler.device
        quantize(recipe, Path(room, "out"), progress=sampler)
        torch.set_num_threads(options.threads)
        run.passes = passes(_module(shape).to(options.device), count, CLOCKS[options.clock])
        print(json.dumps(asdict(run)), flush=True)
        if options.predict:
            found = recognize(recipe, Path(room, "rehearsal"))
            run.predicted = {stage.name: stage.seconds for stage in found.stages}
            run.predicted_mb = (found.peak_bytes or 0.0) / MEGABYTE
            print(json.dumps(asdict(run)), flush=True)


def _setting(options: argparse.Namespace) -> str:
    times = "processor time" if options.clock == "cpu" else "wall time"
    return f"{options.bits:g} bits, {options.effort}, {options.device}, {options.threads} threads, {times}"


def _module(shape: str) -> torch.nn.Module:
    """Return the model of a run."""
    if shape == "digits":
        from lampq_onnx.frontend.models.loading import load_digits

        return load_digits().module
    import timm

    return timm.create_model(_timm_name(shape), num_classes=CLASSES).eval()


def _timm_name(shape: str) -> str:
    return f"vit_{NAMES[shape]}_patch16_{SIDE}"


def _subject(shape: str, count: int, options: argparse.Namespace, room: Path) -> tuple[Recipe, int]:
    """Return the recipe of a run and the number of the model's parameters.

    Images and a checkpoint are written to ``room``, so that the process holds the model once, as the command does.
    """
    from safetensors.torch import save_model

    from lampq_onnx.config.recipe import Recipe

    module = _module(shape)
    parameters = sum(value.numel() for value in module.parameters())

    settings: dict[str, dict[str, Any]] = {
        "model": {"name": "digits", "device": options.device},
        "images": {"calibration_size": count},
        "allocation": {"bits": options.bits},
        "analysis": {"effort": options.effort},
        "output": {"gate_agreement": 0.0, "latency_runs": 1, "threads": options.threads},
    }
    if shape == "digits":
        return Recipe.build(settings), parameters
    settings["model"]["name"] = _timm_name(shape)
    settings["model"]["checkpoint"] = str(room / "model.safetensors")
    save_model(module, room / "model.safetensors")
    for kind, number in (("calibration", count), ("validation", VALIDATION)):
        pixels = np.random.default_rng(number).integers(0, 256, (number, SIDE, SIDE, 3), np.uint8)
        np.savez(room / f"{kind}.npz", images=pixels, labels=np.arange(number) % CLASSES)
        settings["images"][kind] = str(room / f"{kind}.npz")
    return Recipe.build(settings), parameters


def passes(module: torch.nn.Module, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a plain float pass forward and backward over so many images; the first batch is not counted."""
    import torch

    value = next(module.parameters())
    patches: Any = module.get_submodule("patch_embed")
    shape = (min(BATCH, count), patches.proj.in_channels, *patches.img_size)
    images = torch.randn(shape, device=value.device)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    start = 0.0
    for number in range(-1, math.ceil(count / len(images))):
        if number == 0:
            start = clock()
        module.zero_grad(set_to_none=True)
        loss = module(images).square().mean()
        loss.backward()
        loss.item()  # waits for the device
    if value.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def run_one(shape: str, count: int, options: argparse.Namespace) -> Run:
    """Measure one quantization in a process of its own.

    Raises:
        SystemExit: it failed before it was measured.
    """
    words = [sys.executable, __file__, "--one", shape, str(count)]
    for option in ("bits", "effort", "device", "threads", "clock"):
        words += [f"--{option}", str(getattr(options, option))]
    words += [] if options.predict else ["--no-predict"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    last, record = "", options.record
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"label"'):
                last = line
                if record is not None:  # a run that is stopped leaves its finished stages
                    record.with_suffix(".unfinished").write_text(line)
    if not last:
        raise SystemExit(f"{shape}, {count}: exit code {process.returncode}, nothing was measured")
    if process.returncode:
        print(f"{shape}, {count}: exit code {process.returncode} after the last of these stages", file=sys.stderr)
    return Run(**json.loads(last))


def show(runs: list[Run]) -> None:
    """Print the table of the runs: seconds, megabytes, on a GPU the megabytes there, and the exponent."""
    cuda = any(run.device for run in runs)
    growths = _growths(runs)
    unit = "s / MB / MB on the GPU" if cuda else "s / MB"
    titles = [f"{run.label}: {unit}" for run in runs] + [f"exponent over {what}" for what, *_ in growths]
    print(f"| stage | {' | '.join(titles)} |")
    print("|---" * (len(titles) + 1) + "|")
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    for stage in stages:
        cells = [_cell(run, stage) for run in runs] + [
            _exponent(first.seconds.get(stage, 0.0), last.seconds.get(stage, 0.0), growth)
            for _, first, last, growth in growths
        ]
        print(f"| {stage} | {' | '.join(cells)} |")
    exponents = [_exponent(first.front, last.front, growth) for _, first, last, growth in growths]
    tops = [max(peak for stage, peak in run.peaks.items() if stage not in CHECKS) for run in runs]
    used = [f" / {max(run.device.values()):.0f}" if run.device else "" for run in runs]
    fronts = [f"{run.front:.1f} / {top:.0f}{gpu}" for run, top, gpu in zip(runs, tops, used, strict=True)]
    print(f"| **front end** | {' | '.join(fronts + exponents)} |")
    rest = " |" * len(growths)
    sums = [f"{math.fsum(run.seconds.values()):.1f} / {max(run.peaks.values()):.0f}" for run in runs]
    print(f"| all | {' | '.join(sums)} |{rest}")
    print(f"| float pass forward and backward | {' | '.join(_seconds(run.passes) for run in runs)} |{rest}")
    ratios = [f"{run.front / run.passes:.1f}" if run.passes else "" for run in runs]
    print(f"| front end / pass | {' | '.join(ratios)} |{rest}")
    sums = [f"{_seconds(math.fsum(r.predicted.values()))} / {r.predicted_mb:.0f}" if r.predicted else "" for r in runs]
    print(f"| predicted by a dry run | {' | '.join(sums)} |{rest}")
    print(f"| predicted / taken, furthest off | {' | '.join(_furthest(run) for run in runs)} |{rest}")


def _cell(run: Run, stage: str) -> str:
    if stage not in run.seconds:
        return ""
    gpu = f" / {run.device.get(stage, 0.0):.0f}" if run.device else ""
    return f"{_seconds(run.seconds[stage])} / {run.peaks.get(stage, 0.0):.0f}{gpu}"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if 0 < value < 1 else f"{value:.1f}"


def _growths(runs: list[Run]) -> list[tuple[str, Run, Run, float]]:
    """What grows between runs that have all else in common: its name, first and last run, logarithm of its factor."""
    found = []
    for what, own, other in (("images", "images", "parameters"), ("parameters", "parameters", "images")):
        groups: dict[int, list[Run]] = {}
        for run in runs:
            groups.setdefault(getattr(run, other), []).append(run)
        group = sorted(max(groups.values(), key=len), key=lambda run: getattr(run, own))
        if (factor := getattr(group[-1], own) / getattr(group[0], own)) > 1:
            found.append((what, group[0], group[-1], math.log(factor)))
    return found


def _exponent(first: float, last: float, growth: float) -> str:
    return f"{math.log(last / first) / growth:.2f}" if first > 0.05 and last > 0.05 else ""


def _furthest(run: Run) -> str:
    """Name the stage of at least a second whose prediction is off by the largest factor."""
    known = {
        name: run.predicted[name] / taken
        for name, taken in run.seconds.items()
        if run.predicted.get(name, 0.0) > 0 and taken > 1.0
    }
    if not known:
        return ""
    name = max(known, key=lambda stage: abs(math.log(known[stage])))
    return f"{name} {known[name]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="Ti,S")
    parser.add_argument("--counts", default="64")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time of all threads")
    parser.add_argument("--predict", action=argparse.BooleanOptionalAction, default=True, help="ask for the estimate")
    parser.add_argument(
        "--record",
        type=Path,
        help="append every run to this file, a line of JSON each; a stopped run is in FILE.unfinished",
    )
    parser.add_argument("--show", type=Path, nargs="+", help="print the table of the runs in these files")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], int(options.one[1]), options)
        return
    if options.show:
        lines = [line for path in options.show for line in path.read_text().splitlines() if line.strip()]
        runs = [Run(**json.loads(line)) for line in lines]
        print(f"{runs[0].setting}\n")
    else:
        print(f"{describe_environment('any').cpu}; {_setting(options)}\n", flush=True)
        runs = []
        for shape in options.shapes.split(","):
            for count in map(int, options.counts.split(",")):
                runs.append(run_one(shape, count, options))
                if options.record:
                    with options.record.open("a") as record:
                        record.write(json.dumps(asdict(runs[-1])) + "\n")
    show(runs)


if __name__ == "__main__":
    main()
