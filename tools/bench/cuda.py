"""Time and compare files on onnxruntime's CUDA provider: float32, float16, for CPUs, and for onnxruntime-cuda.

    python -m tools.bench.cuda prepare FOLDER --model deit_small_patch16_224       # writes the files; needs torch
    python -m tools.bench.cuda speed FOLDER                                        # times them in turns
    python -m tools.bench.cuda agree FOLDER --validation DIR                       # answers against float32

Needs `pip install onnxruntime-gpu` in place of onnxruntime. Without --checkpoint the weights are random, which does not
change the times; they are rounded to nearest. `--file LABEL=FILE` adds other files of the same model, e.g. those of
`quantize --target onnxruntime-cuda`, and `--sweep FOLDER` all files of a `lampq-onnx sweep`. Images lie on the GPU, and
answers stay there, unless --host is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.artifacts.sweep import SweepPoint
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.order import closing_steps, graph_steps
from lampq_onnx.converter.passes import ToFloat16
from lampq_onnx.data import iter_batches, open_source
from lampq_onnx.disk.files import MODEL_FILE
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.graph.overflows import read_overflows, write_overflows
from lampq_onnx.graph.steps import run_steps
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.runtime.environment import available_cores
from lampq_onnx.runtime.overflows import measure_overflows
from lampq_onnx.targets import TARGETS, Packing, Target
from lampq_onnx.workflow.sweep.points import POINT_FILE
from tools.bench.runtime import float_file, quantized

FLOAT, HALF = "float32", "float16"
CUDA, CPU = TARGETS["onnxruntime-cuda"], TARGETS["onnxruntime-x86-vnni"]
WARM_UP, LEAST = 3, 5
TWICE = 2
"""Each turn runs a file twice and times the second run, so that its own weights are in the caches."""


def prepare(folder: Path, model: str, checkpoint: Path | None, blocks: list[int]) -> None:
    """Write all files, and their list."""
    source = float_file(folder, model, checkpoint)
    graph = load_model(source)
    if read_overflows(graph) is None:
        images = np.random.default_rng(0).normal(size=(4, *_size(source))).astype(np.float32)
        write_overflows(graph, measure_overflows(source, [images], threads=4))
        save_model(graph, source)
    files = {FLOAT: source, HALF: folder / f"{model}.float16.onnx"}
    found = read_overflows(graph)
    assert found is not None
    run_steps(graph, graph_steps())
    ToFloat16(found.wide(wide_sums=CUDA.wide_sums))(graph)
    run_steps(graph, closing_steps())
    save_model(graph, files[HALF])
    ours: list[tuple[str, Target, Packing, tuple[int, ...]]] = [
        ("ours, 4 bits", CUDA, "native", (4,)),
        ("ours, 8 bits", CUDA, "native", (8,)),
        ("ours, 4 and 8 bits", CUDA, "native", (4, 8)),
        ("ours, 4 bits, exact", CUDA, "exact", (4,)),
        ("ours, 5 bits, exact", CUDA, "exact", (5,)),
        ("ours, 8 bits, exact", CUDA, "exact", (8,)),
    ]
    for size in blocks:
        other = dataclasses.replace(CUDA, block=size)
        ours += [(f"ours, {bits} bits, blocks of {size}", other, "native", (bits,)) for bits in (4, 8)]
    for label, target, packing, widths in ours:
        files[label] = folder / f"{model}.{len(files)}.onnx"
        names = [layer.name for layer in find_layers(load_model(source).graph)]
        plan = BitPlan(
            layers={
                name: LayerPlan(weight_bits=widths[place % len(widths)], activation_bits=32)
                for place, name in enumerate(names)
            }
        )
        save_model(convert_model(load_model(source), plan, target=target, packing=packing).model, files[label])
        print(label, file_bytes(files[label]), flush=True)
    for bits in (8, 4):
        files[f"for a CPU, W{bits}A8"] = folder / f"{model}.cpu{bits}.onnx"
        quantized(source, files[f"for a CPU, W{bits}A8"], bits, target=CPU)
    listing = {"model": model, "files": {label: path.name for label, path in files.items()}}
    (folder / "files.json").write_text(json.dumps(listing, indent=2), encoding="utf-8")


def _size(path: Path) -> tuple[int, ...]:
    image = load_model(path).graph.inputs[0]
    assert image.shape is not None
    return tuple(int(d) for d in image.shape[1:])


def files_of(options: argparse.Namespace) -> dict[str, Path]:
    """Files of the folder, or those that were asked for of them, and the others that were named."""
    listing = json.loads((options.folder / "files.json").read_text(encoding="utf-8"))
    own = {label: options.folder / name for label, name in listing["files"].items()}
    if options.only:
        own = {label: path for label, path in own.items() if label in (FLOAT, HALF) or options.only in label}
    added = (text.partition("=") for text in options.file)
    own |= {label: Path(path) for label, _, path in added}
    for folder in options.sweep:
        points = [
            (SweepPoint.load(path), path.with_name(MODEL_FILE)) for path in folder.glob(f"points/*/*/{POINT_FILE}")
        ]
        if not points:
            raise SystemExit(f"{folder} has no finished point of a sweep")
        for point, path in sorted(points, key=lambda each: (each[0].bits, each[0].metric)):
            own[f"{folder.name}, {point.metric}, {point.bits:g} bits"] = path
    return own


def opened(path: Path, provider: str) -> tuple[Any, dict[str, int]]:
    """A session, and how many nodes of each kind it executes.

    Raises:
        SystemExit: the provider does not run it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = available_cores()
    with tempfile.TemporaryDirectory() as room:
        options.optimized_model_filepath = str(Path(room) / "optimized.onnx")
        wanted = f"{provider}ExecutionProvider"
        session = ort.InferenceSession(
            str(path), options, providers=list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
        )
        kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    if session.get_providers()[0] != wanted:
        raise SystemExit(f"onnxruntime has no {provider} provider here: pip install onnxruntime-gpu")
    return session, kinds


def call_of(session: Any, images: np.ndarray, device: str | None) -> Callable[[], Any]:
    """One run on images that lie on the device, or in the memory of the host."""
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    if device is None:
        return lambda: session.run(None, {name: images})
    binding = session.io_binding()
    binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(images, device, 0))
    binding.bind_output(output, device, 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def speed(options: argparse.Namespace) -> None:
    """Time the files in turns; print milliseconds, and ratios to float16 and float32."""
    files = files_of(options)
    print(where(options.provider), end="\n\n")
    sessions = {}
    for label, path in files.items():
        sessions[label], kinds = opened(path, options.provider)
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:6])
        print(f"{label}: {shown}", flush=True)
    titles = ("batch", "file", "MB", "of float16", "ms", "as fast as float16", "as fast as float32")
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    device = None if options.host else "cuda" if options.provider == "CUDA" else "cpu"
    for batch in (int(text) for text in options.batches.split(",")):
        images = np.random.default_rng(0).normal(size=(batch, *_size(files[FLOAT]))).astype(np.float32)
        calls = {label: call_of(session, images, device) for label, session in sessions.items()}
        times: dict[str, list[float]] = {label: [] for label in calls}
        end, turn = time.monotonic() + options.seconds, -WARM_UP
        while turn < LEAST or time.monotonic() < end:
            for label in list(calls) if turn % 2 else reversed(list(calls)):
                for _ in range(TWICE):
                    start = time.perf_counter()
                    calls[label]()
                    last = 1e3 * (time.perf_counter() - start)
                if turn >= 0:
                    times[label].append(last)
            turn += 1
        for label, own in times.items():
            cells = []
            for base in (HALF, FLOAT):
                low, middle, high = np.percentile(np.array(times[base]) / own, (25, 50, 75))
                cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
            size = file_bytes(files[label])
            print(
                f"| {batch} | {label} | {size / 1e6:.2f} | {size / file_bytes(files[HALF]):.3f} | {np.median(own):.3f} "
                f"| {' | '.join(cells)} |",
                flush=True,
            )
        print(f"\nbatch {batch}: {turn} rounds\n", flush=True)


def agree(options: argparse.Namespace) -> None:
    """Compare the answers on labelled images with those of float32; files for CPUs run on the CPU."""
    files = files_of(options)
    facts = read_metadata(load_model(files[FLOAT]), files[FLOAT])
    source = open_source(options.validation, num_classes=facts.num_classes, need_labels=True)
    batches = list(iter_batches(source, facts.preprocessing, options.batch))
    print(f"{where(options.provider)}, {sum(len(batch.images) for batch in batches)} images\n")
    titles = ("file", "on", "MB", "of float16", "top-1", "drop, points", "agreement with float32", "KL", "SQNR, dB")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    true: list[np.ndarray] | None = None
    for label, path in files.items():
        provider = "CPU" if for_cpu(path) else options.provider
        session, _ = opened(path, provider)
        name, meter = session.get_inputs()[0].name, AccuracyMeter()
        found = [session.run(None, {name: batch.images})[0] for batch in batches]
        true = found if true is None else true
        for batch, wanted, own in zip(batches, true, found, strict=True):
            meter.add(wanted, own, batch.labels)
        result, size = meter.result(), file_bytes(path)
        ratio = "" if result.logit_sqnr_db is None else f"{result.logit_sqnr_db:.1f}"
        cells = (
            f"{size / 1e6:.2f} | {size / file_bytes(files[HALF]):.3f} | {100 * result.quantized.top1:.2f} | "
            f"{result.drop_points:.2f} ± {result.standard_error_points:.2f} | {100 * result.agreement:.2f} % | "
            f"{result.kl:.4f} | {ratio}"
        )
        print(f"| {label} | {provider} | {cells} |", flush=True)


def for_cpu(path: Path) -> bool:
    """Whether a file is made for a target that is a CPU."""
    target = TARGETS.get(load_model(path).metadata_props.get(TARGET_KEY, ""))
    return target is not None and target.device == "CPU"


def where(provider: str) -> str:
    """Name the GPU, the versions and the day."""
    machine = "CPU"
    if provider == "CUDA":
        import torch  # which also loads CUDA's libraries

        machine = f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return f"{machine}, onnxruntime {ort.__version__}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "speed", "agree"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--provider", default="CUDA", choices=("CUDA", "CPU"))
        command.add_argument("--model", default="deit_small_patch16_224")
        command.add_argument("--checkpoint", type=Path)
        command.add_argument("--blocks", default="", help="other sizes of blocks, e.g. 32,128")
        command.add_argument("--file", action="append", default=[], help="LABEL=FILE")
        command.add_argument("--sweep", action="append", default=[], type=Path, help="folder of lampq-onnx sweep")
        command.add_argument("--only", default="", help="only files with this text in their label")
        command.add_argument("--batches", default="1,8,64")
        command.add_argument("--seconds", type=float, default=20, help="for each batch")
        command.add_argument("--host", action="store_true", help="images and answers in the memory of the host")
        command.add_argument("--validation", type=Path)
        command.add_argument("--batch", type=int, default=50)
    return parser.parse_args(arguments)


def main() -> None:
    """Run one of the commands."""
    options = read_options()
    if options.command == "prepare":
        sizes = [int(text) for text in options.blocks.split(",") if text]
        prepare(options.folder, options.model, options.checkpoint, sizes)
    elif options.command == "speed":
        speed(options)
    else:
        agree(options)


if __name__ == "__main__":
    main()
