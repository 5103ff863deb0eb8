"""Measure the speed of whole files: graph passes one by one, forms of one plan, and loading.

    python -m tools.bench.runtime prepare FOLDER --model deit_small_patch16_224     # writes the files; needs torch
    python -m tools.bench.runtime speed FOLDER                                      # times them in turns
    python -m tools.bench.runtime load FOLDER --model vit_base_patch16_224 --bits 3,4,5,6
    python -m tools.bench.runtime attention FOLDER --model deit_small_patch16_224   # scale folded, int8 products

Without --checkpoint the weights are random, which does not change the times. Speeds are medians of ratios within the
rounds of one process. For load times and memory, each load has a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.order import default_graph_passes
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.runtime.sessions import session_options
from lampq_onnx.targets import Target
from tools.bench.attention_edits import ALIKE, Edit, compare, fold_scales, quantize_products
from tools.bench.native_int4 import write_native_int4

RANGE = ActivationRange(low=-3.0, high=3.0)
"""Input range of every layer: times do not depend on it."""

FLOAT = "float"
STATIC = "quantize_static QDQ"
NATIVE = "native INT4 QDQ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "speed", "load", "one-load", "attention"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--model", default="deit_small_patch16_224")
        command.add_argument("--checkpoint", type=Path)
        command.add_argument("--bits", default="4")
        command.add_argument("--batch", type=int, default=1)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.folder, options.model, options.checkpoint)
    elif options.command == "speed":
        speed(options.folder, options.batch, options.threads, options.runs)
    elif options.command == "load":
        load(options.folder, options.model, [int(b) for b in options.bits.split(",")], options.runs)
    elif options.command == "attention":
        attention(options.folder, options.model, options.checkpoint, options.runs)
    else:
        print(json.dumps(one_load(options.folder)))


def float_file(folder: Path, model: str, checkpoint: Path | None) -> Path:
    """The exported float graph, written once."""
    path = folder / f"{model}.float.onnx"
    if not path.is_file():
        import timm
        from safetensors.torch import save_file

        from lampq_onnx.config.inputs import ImageOptions, ModelOptions
        from lampq_onnx.frontend.models.export import export_model
        from lampq_onnx.frontend.opening import load_model as load_torch

        folder.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            checkpoint = folder / f"{model}.random.safetensors"
            save_file(timm.create_model(model).state_dict(), checkpoint)
        loaded = load_torch(ModelOptions(name=model, checkpoint=checkpoint), ImageOptions())
        save_model(export_model(loaded).model, path)
    return path


def uniform(source: Path, bits: int) -> BitPlan:
    """The same width for all layers."""
    layer = LayerPlan(weight_bits=bits, activation_bits=8, activation_range=RANGE)
    return BitPlan(layers={graph_layer.name: layer for graph_layer in find_layers(load_model(source).graph)})


def quantized(
    source: Path,
    path: Path,
    bits: int,
    packing: str = "exact",
    *,
    target: Target | None = None,
    passes: int | None = None,
    one_attention: bool = False,
) -> dict[str, int]:
    """Write the file of a plan with ``bits`` for all layers.

    Args:
        target: None: this machine.
        passes: how many of the passes over the float graph run; None: all.
        one_attention: see `convert_model`.
    """
    target = target or target_here("auto")
    if path.is_file() and load_model(path).metadata_props.get(TARGET_KEY) == target.name:
        return {}
    model = load_model(source)
    chosen = default_graph_passes()[:passes]
    conversion = convert_model(
        model,
        uniform(source, bits),
        packing=packing,  # type: ignore[arg-type]
        target=target,
        graph_passes=chosen,
        one_attention=one_attention,
    )
    save_model(conversion.model, path)
    return dict(conversion.passes)


class Noise(CalibrationDataReader):
    """A few random images: only the graph matters here."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        random = np.random.default_rng(0)
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(
            [{name: random.normal(size=(1, *shape)).astype(np.float32)} for _ in range(2)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def prepare(folder: Path, model: str, checkpoint: Path | None) -> None:
    """Write every file that `speed` times."""
    source = float_file(folder, model, checkpoint)
    names = [type(step).__name__ for step in default_graph_passes()]
    files = {FLOAT: source}
    here = target_here("auto")
    plain = dataclasses.replace(here, tokens_first=False, rows=False, gemm_bias=False, part_products=False)
    steps = [("W4A8, no graph pass", 0, plain, False)]
    steps += [(f"+ {name}", number, plain, False) for number, name in enumerate(names, 1)]
    if here.part_products:
        steps.append(("+ ProductPerPart", len(names), dataclasses.replace(plain, part_products=True), False))
    if here.gemm_bias:
        steps.append(("+ BiasInGemm", len(names), dataclasses.replace(here, tokens_first=False, rows=False), False))
    if here.rows:
        steps.append(("+ StayInRows", len(names), dataclasses.replace(here, tokens_first=False), False))
    if here.tokens_first:
        steps.append(("+ TokensFirst", len(names), here, False))
    steps.append(("+ OneAttention", len(names), here, True))
    for number, (label, passes, target, one) in enumerate(steps):
        files[label] = folder / f"{model}.step{number}.onnx"
        print(label, quantized(source, files[label], 4, target=target, passes=passes, one_attention=one))
    fast = load_model(source)
    for step in default_graph_passes():
        step(fast)
    files["float, all graph passes"] = folder / f"{model}.float-passes.onnx"
    save_model(fast, files["float, all graph passes"])
    files[NATIVE] = folder / f"{model}.native.onnx"
    write_native_int4(source, uniform(source, 4), here, files[NATIVE])
    files[STATIC] = folder / f"{model}.static.onnx"
    if not files[STATIC].is_file():
        ready = folder / f"{model}.pre.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        image = load_model(source).graph.inputs[0]
        assert image.shape is not None
        quantize_static(
            str(ready),
            str(files[STATIC]),
            Noise(image.name or "", tuple(int(d) for d in image.shape[1:])),  # type: ignore[arg-type]
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    listing = {label: path.name for label, path in files.items()}
    (folder / "files.json").write_text(json.dumps({"model": model, "files": listing}, indent=2), encoding="utf-8")


def speed(folder: Path, batch: int, threads: int, runs: int) -> None:
    """Time all files in turns and print a table."""
    listing = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    sessions = {
        label: ort.InferenceSession(str(folder / name), session_options(threads), providers=["CPUExecutionProvider"])
        for label, name in listing["files"].items()
    }
    image = next(iter(sessions.values())).get_inputs()[0]
    x = np.random.default_rng(0).normal(size=(batch, *image.shape[1:])).astype(np.float32)
    labels = list(sessions)
    times = np.empty((runs, len(labels)))
    for run in range(-3, runs):
        order = range(len(labels)) if run % 2 else reversed(range(len(labels)))
        for column in order:
            start = time.perf_counter()
            sessions[labels[column]].run(None, {image.name: x})
            if run >= 0:
                times[run, column] = 1e3 * (time.perf_counter() - start)
    print(f"{listing['model']}, batch {batch}, {threads} thread(s), {runs} interleaved rounds, {where()}\n")
    print("| file | MB | ms | as fast as float [quartiles] | as fast as the line before |")
    print("|---|---|---|---|---|")
    for column, label in enumerate(labels):
        ratio = np.percentile(times[:, 0] / times[:, column], [25, 50, 75])
        before = f"{np.median(times[:, column - 1] / times[:, column]):.3f}" if label.startswith("+") else ""
        size = (folder / listing["files"][label]).stat().st_size / 1e6
        middle = np.median(times[:, column])
        print(f"| {label} | {size:.2f} | {middle:.2f} | {ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}] | {before} |")
    *_, default, one = (column for column, label in enumerate(labels) if label.startswith("+"))
    for name, ours in (("W4A8", default), ("W4A8, --attention operator,", one)):
        for other in (FLOAT, "float, all graph passes", STATIC, NATIVE):
            ratio = np.percentile(times[:, labels.index(other)] / times[:, ours], [25, 50, 75])
            print(f"\n{name} against {other}: {ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]")


def attention(folder: Path, model: str, checkpoint: Path | None, runs: int) -> None:
    """Time the float and the W4A8 file with and without edits of their attention."""
    source = float_file(folder, model, checkpoint)
    w4a8 = folder / f"{model}.attention4.onnx"
    plain = dataclasses.replace(
        target_here("auto"), tokens_first=False, rows=False, gemm_bias=False, part_products=False
    )
    quantized(source, w4a8, 4, target=plain)
    edits = []
    for label, path in ((FLOAT, source), ("W4A8", w4a8)):
        folded = path.with_suffix(".folded.onnx")
        layers = fold_scales(path, folded)
        edits.append(Edit(f"{label}, scale folded in {layers} layers", path, folded, ALIKE))
    int8 = w4a8.with_suffix(".int8.onnx")
    products = quantize_products(edits[-1].edited, int8)
    edits.append(Edit(f"W4A8, scale folded, {products} int8 products", w4a8, int8, None))
    print(f"{model}, batch 1, one thread, {runs} rounds in each repetition, processor time, {where()}\n")
    compare(edits, runs, repeats=5, folder=folder)


def load(folder: Path, model: str, bits: list[int], runs: int) -> None:
    """Session creation and memory of exact storage against int8 containers."""
    source = float_file(folder, model, None)
    files = {"float": source, "int8 containers": folder / f"{model}.container.onnx"}
    quantized(source, files["int8 containers"], 4, packing="container")
    for width in bits:
        files[f"exact, {width} bits"] = folder / f"{model}.exact{width}.onnx"
        quantized(source, files[f"exact, {width} bits"], width)
    found: dict[str, list[dict[str, float]]] = {label: [] for label in files}
    for _ in range(runs):
        for label, path in files.items():
            words = [sys.executable, "-m", "tools.bench.runtime", "one-load", str(path)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[label].append(json.loads(done.stdout))
    base = {key: np.median([one[key] for one in found["int8 containers"]]) for key in ("ms", "busy")}
    print(f"{model}, {runs} loads each, one thread, {where()}\n")
    print("| file | MB | session creation, ms | against containers | by processor time | resident, MB | held | peak |")
    print("|---|---|---|---|---|---|---|---|")
    for label, ones in found.items():
        middle = {key: float(np.median([one[key] for one in ones])) for key in ("ms", "busy", "after", "held", "peak")}
        ratio, busy = middle["ms"] / base["ms"], middle["busy"] / base["busy"]
        print(
            f"| {label} | {files[label].stat().st_size / 1e6:.1f} | {middle['ms']:.0f} | {ratio:.2f} | {busy:.2f} "
            f"| {middle['after']:.0f} | {middle['held']:.0f} | {middle['peak']:.0f} |"
        )


def one_load(path: Path) -> dict[str, float]:
    """Creating one session: milliseconds, those of them on a processor, and memory beyond that before, in MB."""
    before = _memory("VmRSS")
    start, start_busy = time.perf_counter(), time.process_time()
    session = ort.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
    elapsed = 1e3 * (time.perf_counter() - start)
    busy = 1e3 * (time.process_time() - start_busy)
    after = _memory("VmRSS")
    peak = _memory("VmHWM")
    # The C library keeps freed memory for itself; what the session holds shows when that is handed back.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = _memory("VmRSS")
    del session
    return {"ms": elapsed, "busy": busy, "after": after - before, "held": held - before, "peak": peak - before}


def _memory(key: str) -> float:
    """Memory of this process in MB: VmRSS resident now, VmHWM at most so far."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("this system does not say how much memory a process holds")


def where() -> str:
    """Describe the machine and the versions."""
    found = describe_environment("auto")
    return f"{found.cpu} ({', '.join(found.cpu_flags)}), onnxruntime {found.versions['onnxruntime']}"


if __name__ == "__main__":
    main()
