"""Compare files of other quantizers with ours, from one float file and in one interleaved run, as a Markdown table.

    python -m tools.bench.peers deit_tiny.onnx --calibration DIR --validation DIR --ours out/model.onnx

The float file is one that lampq-onnx wrote. Without --ours, this script makes files of uniform plans, rounded to
nearest with min-max input ranges. Every tool runs in a process of its own, which gives its time and peak memory.
Tools that need another environment get one that this script makes in --environments. If that fails, the tool is
skipped with the reason. Agreement and SQNR compare each file with the float file on the validation images.

Every file runs in onnxruntime. The float file, NNCF's and ours for OpenVINO also run in OpenVINO, with its own
defaults. All sessions take turns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.converter import convert_model
from lampq_onnx.data import iter_batches, open_source
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.runtime import describe_environment, open_runner
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine, engine_for
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.runtime.runtimes import described
from lampq_onnx.runtime.sessions import open_session
from lampq_onnx.workflow.ranges import with_measured_ranges
from tools.bench.native_int4 import write_native_int4

TOOL_SECONDS = 900
"""Longest time of one tool."""

INSTALL_SECONDS = 900

OPENVINO = Engine("openvino")
"""With its own defaults, also for the arithmetic beside integers."""


@dataclass(frozen=True)
class Peer:
    """A quantizer of another project.

    Attributes:
        label: in the table.
        tool: name in peer_tools.py.
        requirements: of its environment; empty: ours.
    """

    label: str
    tool: str
    requirements: tuple[str, ...] = ()


MODELOPT = (
    *("nvidia-modelopt==0.47.0", "requests", "onnx==1.21.0", "onnxruntime==1.24.4", "onnx-graphsurgeon", "polygraphy"),
    *("onnxslim", "onnxconverter-common~=1.16.0", "lief", "cppimport", "onnxscript", "ml_dtypes"),
)
"""Its extra `onnx` without the packages for CUDA."""

PEERS = (
    Peer("onnxruntime quantize_dynamic", "ort-dynamic"),
    Peer("onnxruntime quantize_static QDQ W8A8", "ort-static"),
    Peer("onnxruntime MatMulNBits 8", "ort-nbits8"),
    Peer("onnxruntime MatMulNBits 4", "ort-nbits4"),
    Peer("onnxruntime MatMulNBits 8, accuracy_level 4, block 128", "ort-nbits8-level4"),
    Peer("onnxruntime MatMulNBits 4, accuracy_level 4, block 128", "ort-nbits4-level4"),
    Peer("NNCF W8A8", "nncf", ("nncf==3.4.0", "onnx==1.21.0", "onnxruntime==1.32.0")),
    Peer("AIMET W8A8", "aimet-w8", ("aimet-onnx==2.42.0",)),
    Peer("AIMET W4A8", "aimet-w4", ("aimet-onnx==2.42.0",)),
    Peer("Model Optimizer INT8", "modelopt-int8", MODELOPT),
    Peer("Model Optimizer INT4", "modelopt-int4", MODELOPT),
)


@dataclass(frozen=True)
class Candidate:
    """A file to measure, and the runtime; seconds and megabytes are those of the tool that made it."""

    label: str
    path: Path
    seconds: float | None = None
    megabytes: float | None = None
    engine: Engine = ONNXRUNTIME

    def in_openvino(self, *, float32: bool = False) -> Candidate:
        """The same file in OpenVINO, with its own arithmetic beside integers or in float32."""
        engine = replace(OPENVINO, precision="f32") if float32 else OPENVINO
        return replace(self, label=f"{self.label}, in OpenVINO{', float32' if float32 else ''}", engine=engine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_file", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--ours", type=Path, action="append", default=[])
    parser.add_argument("--only", help="tools of peer_tools.py, separated by commas; default: all", default="")
    parser.add_argument("--environments", type=Path, default=Path("peer-environments"))
    parser.add_argument("--images", type=int, default=32, help="number of calibration images")
    parser.add_argument("--samples", type=int, default=650, help="number of validation images")
    parser.add_argument("--shapes", default="1x1,8x1,1x2,8x2", help="batch x threads of the timed sessions")
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    shapes = [(int(b), int(t)) for b, t in (word.split("x") for word in options.shapes.split(","))]
    wanted = set(options.only.split(",")) if options.only else {peer.tool for peer in PEERS}
    with tempfile.TemporaryDirectory(prefix="lampq-peers-") as scratch:
        folder = Path(scratch)
        candidates = [Candidate("float", options.float_file)]
        candidates.append(candidates[0].in_openvino())
        candidates += own_files(options.ours)
        candidates += _own(options.float_file, folder, options.calibration, options.images, made=not options.ours)
        skipped = {}
        images = _calibration(options.float_file, options.calibration, options.images, folder)
        for peer in PEERS:
            if peer.tool not in wanted:
                continue
            found = _run(peer, options.float_file, images, folder, options.environments)
            if isinstance(found, str):
                skipped[peer.label] = found
            else:
                candidates.append(found)
                if peer.tool == "nncf":
                    candidates.append(found.in_openvino())
        _table(candidates, skipped, options.validation, options.samples, shapes, options.runs)


def own_files(paths: Sequence[Path]) -> list[Candidate]:
    """Our files, each with a unique label for its row.

    Raises:
        SystemExit: a file is given twice.
    """
    labels = [f"lampq-onnx, {path.resolve().parent.name}/{path.name}" for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise SystemExit("peers: a file of --ours is given twice")
    if len(set(labels)) < len(labels):
        labels = [f"lampq-onnx, {path}" for path in paths]
    found = [Candidate(label, path) for label, path in zip(labels, paths, strict=True)]
    return [c.in_openvino() if engine_of(c.path) == OPENVINO else c for c in found]


def engine_of(path: Path) -> Engine:
    """The runtime of the target that a file of ours was made for."""
    return engine_for("auto", "auto", load_model(path).metadata_props.get(TARGET_KEY, ""))


def _own(source: Path, folder: Path, calibration: Path, images: int, *, made: bool) -> list[Candidate]:
    """Uniform plans rounded to nearest, and the usual INT4 graph of the 4-bit one."""
    model = load_model(source)
    options = ImageOptions(calibration=calibration, calibration_size=images)
    names = [layer.name for layer in find_layers(model.graph)]
    plan = BitPlan(layers=dict.fromkeys(names, LayerPlan(weight_bits=8, activation_bits=8)))
    start = time.perf_counter()
    target = target_here("auto")
    plan = with_measured_ranges(model, source, plan, options, target, threads=1)
    ranges = time.perf_counter() - start
    found = []
    for bits in (8, 4):
        narrow = BitPlan(layers={n: x.model_copy(update={"weight_bits": bits}) for n, x in plan.layers.items()})
        if made:
            start = time.perf_counter()
            path = folder / f"W{bits}A8.onnx"
            save_model(convert_model(load_model(source), narrow, target=target).model, path)
            seconds = ranges + time.perf_counter() - start
            found.append(Candidate(f"lampq-onnx convert W{bits}A8, nearest", path, seconds))
            path = folder / f"W{bits}A8.openvino.onnx"
            save_model(convert_model(load_model(source), narrow, target=target_here("openvino")).model, path)
            there = Candidate(f"lampq-onnx convert W{bits}A8, nearest", path, seconds)
            found += [there.in_openvino(), there.in_openvino(float32=True)]
    write_native_int4(source, narrow, target, folder / "native.onnx")
    return [*found, Candidate("W4A8 as native INT4 QDQ", folder / "native.onnx")]


def _calibration(source: Path, folder: Path, count: int, scratch: Path) -> Path:
    facts = read_metadata(load_model(source), source)
    source_of_images = open_source(folder, num_classes=facts.num_classes, need_labels=False)
    batches = iter_batches(source_of_images, facts.preprocessing, count)
    path = scratch / "calibration.npy"
    np.save(path, np.concatenate([batch.images for batch in islice(batches, 1)]))
    return path


def _run(peer: Peer, source: Path, images: Path, folder: Path, environments: Path) -> Candidate | str:
    """The tool's file, or the reason why there is none."""
    python = Path(sys.executable)
    if peer.requirements:
        made = _environment(peer, environments)
        if isinstance(made, str):
            return made
        python = made
    output = folder / f"{peer.tool}.onnx"
    words = [str(python), str(Path(__file__).with_name("peer_tools.py")), peer.tool, str(source), str(output)]
    log = folder / f"{peer.tool}.log"
    start = time.perf_counter()
    with log.open("wb") as stream:
        child = subprocess.Popen([*words, str(images)], stdout=stream, stderr=subprocess.STDOUT)
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode = os.waitstatus_to_exitcode(status)
                break
            if time.perf_counter() - start > TOOL_SECONDS:
                child.kill()
                os.wait4(child.pid, 0)
                child.returncode = -9
                return f"not done after {TOOL_SECONDS} s"
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    if child.returncode or not output.is_file():
        return _last_line(log.read_text(encoding="utf-8", errors="replace")) or f"ended with {child.returncode}"
    return Candidate(peer.label, output, seconds, usage.ru_maxrss / 1e3)


def _environment(peer: Peer, folder: Path) -> Path | str:
    """Python of an environment with the peer's requirements, or why it could not be made."""
    place = folder / peer.requirements[0].replace("==", "-")
    python, done = place / "bin" / "python", place / "complete"
    if done.is_file():
        return python.absolute()
    venv.create(place, with_pip=True, clear=True)
    try:
        words = [str(python), "-m", "pip", "install", "--quiet", *peer.requirements]
        installed = subprocess.run(words, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not installed after {INSTALL_SECONDS} s"
    if installed.returncode:
        return f"cannot be installed: {_last_line(installed.stderr)}"
    done.touch()
    return python.absolute()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _table(
    candidates: Sequence[Candidate],
    skipped: dict[str, str],
    validation: Path | None,
    samples: int,
    shapes: Sequence[tuple[int, int]],
    runs: int,
) -> None:
    kept = []
    for candidate in candidates:
        try:
            open_runner(candidate.path, threads=1, engine=candidate.engine)
            kept.append(candidate)
        except Exception as error:  # whatever keeps a file from loading is what the table has to say of it
            skipped[candidate.label] = f"its file does not load: {_last_line(str(error))}"
    ratios = {shape: _speeds(kept, *shape, runs) for shape in shapes}
    closeness = _closeness(kept, validation, samples) if validation is not None else {}
    environment = describe_environment("auto")
    print(
        f"{kept[0].path.stem}, {environment.cpu} ({', '.join(environment.cpu_flags)}), onnxruntime "
        f"{environment.versions['onnxruntime']}, "
        f"{_openvino(kept)}{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}\n"
    )
    columns = ["file", "MB", *(f"batch {b}, {t} thread(s)" for b, t in shapes)]
    columns += ["agreement", "SQNR, dB", "tool, s", "tool, peak MB"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row, candidate in enumerate(kept):
        cells = [candidate.label, f"{file_bytes(candidate.path) / 1e6:.2f}"]
        cells += [f"{ratios[s][0][row]:.2f} ms, {ratios[s][1][row]:.2f}x" for s in shapes]
        agreement, sqnr = closeness.get(candidate.label, ("", ""))
        cells += [agreement, sqnr]
        cells += ["" if candidate.seconds is None else f"{candidate.seconds:.0f}"]
        cells += ["" if candidate.megabytes is None else f"{candidate.megabytes:.0f}"]
        print("| " + " | ".join(cells) + " |")
    for label, reason in skipped.items():
        print(f"\nnot measured: {label}: {reason}")


def _openvino(candidates: Sequence[Candidate]) -> str:
    """Version and arithmetic of OpenVINO, if a file runs there."""
    return f"{described(OPENVINO)}, " if any(c.engine.runtime == OPENVINO.runtime for c in candidates) else ""


def _speeds(candidates: Sequence[Candidate], batch: int, threads: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Median milliseconds, and median ratio to the first file within rounds."""
    sessions = [open_session(c.path, threads=threads, engine=c.engine) for c in candidates]
    shape = sessions[0].get_inputs()[0].shape
    x = np.random.default_rng(0).normal(size=(batch, *shape[1:])).astype(np.float32)
    times = np.empty((runs, len(sessions)))
    for run in range(-2, runs):
        for column, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            if run >= 0:
                times[run, column] = 1e3 * (time.perf_counter() - start)
    return np.median(times, axis=0), np.median(times[:, :1] / times, axis=0)


def _closeness(candidates: Sequence[Candidate], validation: Path, samples: int) -> dict[str, tuple[str, str]]:
    """Agreement and SQNR to the first file."""
    facts = read_metadata(load_model(candidates[0].path), candidates[0].path)
    source = open_source(validation, num_classes=facts.num_classes, need_labels=True)
    runners = [open_runner(c.path, threads=1, engine=c.engine) for c in candidates]
    meters = [AccuracyMeter() for _ in candidates]
    seen = 0
    for batch in iter_batches(source, facts.preprocessing, 16):
        wanted = runners[0](batch.images)
        for runner, meter in zip(runners, meters, strict=True):
            assert batch.labels is not None
            meter.add(wanted, runner(batch.images), batch.labels)
        seen += len(batch.images)
        if seen >= samples:
            break
    found = {}
    for candidate, meter in zip(candidates, meters, strict=True):
        result = meter.result()
        sqnr = "" if result.logit_sqnr_db is None else f"{result.logit_sqnr_db:.1f}"
        found[candidate.label] = (f"{100 * result.agreement:.1f} % (n = {result.samples})", sqnr)
    return found


if __name__ == "__main__":
    main()
