"""One quantization in a process of its own, or the rehearsal of it, with the time and memory of every stage.

`tools/bench/stage_times.py` starts it. It prints what it knows as a line of JSON whenever a stage begins or ends.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lampq_onnx.runtime.environment import cpu_name
from lampq_onnx.workflow.provenance import code_sha256
from tools.bench.stage_table import Run

if TYPE_CHECKING:
    import torch

    from lampq_onnx.config.recipe import Recipe

MEGABYTE = 2**20
NAMES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
CLASSES, SIDE = 1000, 224
VALIDATION = 16
BATCH = 32
"""Images in one pass forward and backward."""

CLOCKS = ("wall", "cpu")


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    """Return the clock of a run.

    Processor time over the number of threads hardly depends on what else runs on a machine. Where all threads work, it
    is the time that a free machine takes.
    """
    if options.clock == "wall":
        return time.perf_counter
    return lambda: time.process_time() / options.threads


class Sampler:
    """A sink of progress that keeps the seconds and the largest memory of every stage.

    Args:
        cuda: keep the memory on the GPU too.
        clock: see `clock_of`.
        changed: called with the name of the stage that runs, empty for none, whenever one begins or ends.
    """

    def __init__(
        self,
        *,
        cuda: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self.device: dict[str, float] = {}
        self._open: list[str] = []
        self._cuda = cuda
        self._changed = changed
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
        self._changed(name)
        start = self._clock()
        try:
            yield lambda _: None
        finally:
            self._allocated()
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start
            self._open.remove(name)
            self._changed(self._open[-1] if self._open else "")


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def measure(shape: str, count: int, options: argparse.Namespace) -> None:
    """Run one quantization, and print its figures."""
    start = time.perf_counter()
    import torch

    from lampq_onnx.frontend.shared.compiler import load_compiler
    from lampq_onnx.workflow.quantize import quantize

    load_compiler()
    imports = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as room:
        recipe, run = subject(shape, count, options, Path(room))
        run.imports = imports

        def changed(stage: str) -> None:
            run.stage = stage
            _say(run)

        sampler = Sampler(cuda=options.device != "cpu", clock=clock_of(options), changed=changed)
        run.seconds, run.peaks, run.device = sampler.seconds, sampler.peaks, sampler.device
        quantize(recipe, Path(room, "out"), progress=sampler)
        torch.set_num_threads(options.threads)
        run.passes = passes(_module(shape).to(options.device), count, clock_of(options))
        _say(run)


def predict(shape: str, count: int, options: argparse.Namespace) -> None:
    """Print what a dry run expects of the same quantization."""
    from lampq_onnx.workflow.quantize import recognize

    with tempfile.TemporaryDirectory() as room:
        recipe, run = subject(shape, count, options, Path(room))
        found = recognize(recipe, Path(room, "out"))
        for stage in found.stages:
            run.predicted[stage.name] = run.predicted.get(stage.name, 0.0) + stage.seconds
        run.predicted_mb = (found.peak_bytes or 0.0) / MEGABYTE
        _say(run)


def _say(run: Run) -> None:
    print(json.dumps(asdict(run)), flush=True)


def setting(options: argparse.Namespace) -> str:
    """Return what runs of one table have in common, as text."""
    times = "processor time over threads" if options.clock == "cpu" else "wall time"
    return f"{options.bits:g} bits, {options.effort}, {options.device}, {options.threads} threads, {times}"


def machine(device: str) -> str:
    """Return the name of the processor, and that of the GPU where one is used."""
    if device == "cpu":
        return cpu_name()
    import torch

    return f"{cpu_name()}, {torch.cuda.get_device_name(device)}"


def label(shape: str, count: int) -> str:
    """Return the name of a run in a table."""
    return f"{shape}, {count}"


def _module(shape: str) -> torch.nn.Module:
    """Return the model of a run."""
    if shape == "digits":
        from lampq_onnx.frontend.models.loading import load_digits

        return load_digits().module
    import timm

    return timm.create_model(_timm_name(shape), num_classes=CLASSES).eval()


def _timm_name(shape: str) -> str:
    """Return timm's name of a shape of NAMES; any other name is timm's own."""
    return f"vit_{NAMES[shape]}_patch16_{SIDE}" if shape in NAMES else shape


def subject(shape: str, count: int, options: argparse.Namespace, room: Path) -> tuple[Recipe, Run]:
    """Return the recipe of a run, and the record of it without figures.

    Images and a checkpoint are written to ``room``, so that the process holds the model once, as the command does.
    """
    import torch
    from safetensors.torch import save_model

    from lampq_onnx.config.recipe import Recipe

    torch.manual_seed(0)
    module = _module(shape)
    run = Run(
        label(shape, count),
        setting(options),
        sum(value.numel() for value in module.parameters()),
        count,
        machine=machine(options.device),
        code=code_sha256(),
    )
    settings: dict[str, dict[str, Any]] = {
        "model": {"name": "digits", "device": options.device},
        "images": {"calibration_size": count},
        "allocation": {"bits": options.bits},
        "analysis": {"effort": options.effort},
        "output": {"gate_agreement": 0.0, "latency_runs": 1, "threads": options.threads},
    }
    if shape == "digits":
        return Recipe.build(settings), run
    settings["model"]["name"] = _timm_name(shape)
    settings["model"]["checkpoint"] = str(room / "model.safetensors")
    save_model(module, room / "model.safetensors")
    patches: Any = module.get_submodule("patch_embed")
    for kind, number in (("calibration", count), ("validation", VALIDATION)):
        pixels = np.random.default_rng(number).integers(0, 256, (number, *patches.img_size, 3), np.uint8)
        np.savez(room / f"{kind}.npz", images=pixels, labels=np.arange(number) % CLASSES)
        settings["images"][kind] = str(room / f"{kind}.npz")
    return Recipe.build(settings), run


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


def options_parser(**settings: Any) -> argparse.ArgumentParser:
    """Return a parser of the options that both programs take."""
    parser = argparse.ArgumentParser(**settings)
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time over threads")
    return parser


def main() -> None:
    parser = options_parser(description=__doc__)
    parser.add_argument("job", choices=["measure", "predict"])
    parser.add_argument("shape")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    job = measure if options.job == "measure" else predict
    job(options.shape, options.count, options)


if __name__ == "__main__":
    main()
