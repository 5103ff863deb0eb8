"""Compare files whose layers have several widths each with files of one width per layer: bytes, loading, latency.

    python -m tools.bench.channel_widths FOLDER --model deit_tiny_patch16_224 --bits 4

Both files have the same average bits. In one file every layer has one of four neighbouring widths, in the other every
layer has channels of all of them, in random order. Weights are random: neither bytes nor times depend on them. Loads
are each in a process of its own, in turns; latencies are medians of ratios within the rounds of one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lampq_onnx.artifacts import BitPlan, ChannelWidths
from lampq_onnx.converter import convert_model
from lampq_onnx.graph.layers import GraphLayer, find_layers
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.quantization.pools import pool_bytes
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.runtime.sessions import session_options
from tools.bench.runtime import float_file, uniform, where

SHARES = {-1: 0.30, 0: 0.45, 1: 0.20, 2: 0.05}
"""Width beside the average -> share of the weights that have it."""


def by_layer(base: BitPlan, layers: list[GraphLayer], bits: int, seed: int) -> BitPlan:
    """One width for each layer, so that the average is as near to ``bits`` as random choice makes it."""
    random = np.random.default_rng(seed)
    best, least = base, np.inf
    sizes = np.array([layer.matrix().size for layer in layers])
    for _ in range(2000):
        widths = bits + random.choice(list(SHARES), len(layers), p=list(SHARES.values()))
        error = abs(float(sizes @ widths) / sizes.sum() - bits)
        if error < least:
            best, least = (
                base.with_weight_bits(dict(zip((x.name for x in layers), widths.tolist(), strict=True))),
                error,
            )
    return best


def by_channel(base: BitPlan, layers: list[GraphLayer], bits: int, seed: int) -> BitPlan:
    """Several widths for the channels of each layer, in random order."""
    random = np.random.default_rng(seed)
    mixes = {}
    for layer in layers:
        rows = len(layer.matrix())
        widths = np.repeat(list(SHARES), np.diff(np.round(np.cumsum([0, *SHARES.values()]) * rows)).astype(int))
        mixes[layer.name] = ChannelWidths.from_rows(random.permutation(widths) + bits)
    return base.with_channel_widths(mixes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--loads", type=int, default=9)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = float_file(options.folder, options.model, None)
    layers, target = find_layers(load_model(source).graph), target_here("auto")
    base = uniform(source, options.bits)
    plans = {
        "one width per layer": by_layer(base, layers, options.bits, options.seed),
        "several widths per layer": by_channel(base, layers, options.bits, options.seed),
    }
    files = {"float": source}
    total = sum(layer.matrix().size for layer in layers)
    print(f"{options.model}, {options.bits} bits, one thread, {where()}, target {target.name}\n")
    print("| file | average bits | bytes | of weights | pools and order |")
    print("|---|---|---|---|---|")
    for at, (label, plan) in enumerate(plans.items()):
        files[label] = options.folder / f"{options.model}.{options.bits}.{at}.onnx"
        if not files[label].is_file():
            save_model(convert_model(load_model(source), plan, target=target).model, files[label])
        weights = sum(layer.matrix().size * plan.layers[layer.name].mean_weight_bits for layer in layers) / 8
        shapes = {layer.name: layer.matrix().shape for layer in layers if plan.layers[layer.name].channel_widths}
        beside = (
            pool_bytes(shapes, [options.bits + more for more in SHARES]) + sum(s[0] for s in shapes.values()) * 3 // 8
        )
        print(f"| {label} | {8 * weights / total:.4f} | {files[label].stat().st_size} | {weights:.0f} | {beside} |")
    print("\n| file | load, ms | ratio | latency, ms | ratio |\n|---|---|---|---|---|")
    loads, times = load_times(files, options.loads), latencies(files, options.runs)
    (first, *_) = plans
    for label in files:
        load = np.median([a / b for a, b in zip(loads[label], loads[first], strict=True)])
        slow = np.median([a / b for a, b in zip(times[label], times[first], strict=True)])
        print(f"| {label} | {np.median(loads[label]):.0f} | {load:.3f} | {np.median(times[label]):.2f} | {slow:.3f} |")


def load_times(files: dict[str, Path], runs: int) -> dict[str, list[float]]:
    """Milliseconds of processor time of each load; every load has a process of its own."""
    found: dict[str, list[float]] = {label: [] for label in files}
    for _ in range(runs):
        for label, path in files.items():
            words = [sys.executable, "-m", "tools.bench.runtime", "one-load", str(path)]
            found[label].append(json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["busy"])
    return found


def latencies(files: dict[str, Path], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each run, in turns."""
    sessions = {
        label: ort.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
        for label, path in files.items()
    }
    inputs = next(iter(sessions.values())).get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in inputs.shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found: dict[str, list[float]] = {label: [] for label in files}
    for run in range(-3, runs):
        for label, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {inputs.name: x})
            if run >= 0:
                found[label].append(1e3 * (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    main()
