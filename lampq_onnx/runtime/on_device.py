"""Check and time a kit on the device that it is for: `python bench.py`, with only onnxruntime and NumPy.

`lampq-onnx bench MODEL --kit FOLDER` writes the kit: the quantized and the float file, each layer as a file of its own
with an input and the result of its plain arithmetic, and this program as bench.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

BOUND = 1e-3
"""Largest relative error of a layer that counts as exact: the order of float sums differs between kernels."""

FLAGS = ("asimddp", "i8mm", "sve", "avx2", "avx512_vnni", "avx_vnni", "amx_int8")
INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QLinearConv")
PRODUCTS = (*INTEGER, "MatMulNBits", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv")
WARM_UP = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row: CPU, kernels, exactness, and speed against float."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="the kit")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (default 1)")
    parser.add_argument("--runs", type=int, default=30, help="measured runs (default 30); 0: nothing is timed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a row of a table")
    asked = parser.parse_args(arguments)
    row = measure(asked.folder, threads=asked.threads, runs=asked.runs)
    print(json.dumps(row) if asked.json else as_text(row))


def measure(folder: Path, *, threads: int, runs: int) -> dict[str, Any]:
    """Measure a kit: the kernel and the error of each layer, the answers of the whole model, and its speed."""
    facts = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    layers: dict[str, dict[str, Any]] = {}
    for position, layer in enumerate(facts["layers"]):
        values = np.load(folder / f"layer{position}.npz")
        kernel, parts = run(folder / f"layer{position}.onnx", values["input"], threads)
        wanted = values["result"].astype(np.float64)
        found = np.concatenate([part.astype(np.float64).ravel() for part in parts])
        scale = max(float(np.linalg.norm(wanted)), float(np.finfo(np.float32).tiny))
        error = float(np.linalg.norm(found - wanted)) / scale
        layers[layer] = {"kernel": kernel, "error": error if np.isfinite(error) else float("inf")}
    images = np.load(folder / "images.npz")["images"]
    sessions = [opened(folder / name, threads) for name in ("float.onnx", "model.onnx")]
    answers = [
        np.concatenate([session.run(None, feed(session, image[None]))[0] for image in images]) for session in sessions
    ]
    first, second = (answer.reshape(len(images), -1) for answer in answers)
    return {
        "model": facts["model"],
        "cpu": cpu(),
        "flags": flags(),
        "machine": platform.machine(),
        "onnxruntime": ort.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "threads": threads,
        "layers": layers,
        "images": len(images),
        "same": float(np.mean(first.argmax(1) == second.argmax(1))) if facts["real"] else None,
        "error": float(np.linalg.norm(second - first) / max(float(np.linalg.norm(first)), 1e-30)),
        "ms": times(sessions, images[:1], runs) if runs else None,
    }


def opened(path: Path, threads: int, folder: str | None = None) -> Any:
    """Open a session on the CPU; with a folder, it writes a profile there."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if folder is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed(session: Any, values: Any) -> dict[str, Any]:
    """Name the only input of a session."""
    return {session.get_inputs()[0].name: values}


def run(path: Path, values: Any, threads: int) -> tuple[str, list[Any]]:
    """Run one layer; return the kernels of its products, and what it computes."""
    with tempfile.TemporaryDirectory() as folder:
        session = opened(path, threads, folder)
        parts = session.run(None, feed(session, values))
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    used = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and "op_name" in event["args"]]
    return " + ".join(dict.fromkeys(name for name in used if name in PRODUCTS)) or "none", parts


def times(sessions: Sequence[Any], image: Any, runs: int) -> dict[str, Any]:
    """Milliseconds of the float and of the quantized file in turns: medians, and the quartiles of their ratio."""
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + runs):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            sessions[which].run(None, feed(sessions[which], image))
            if turn >= WARM_UP:
                samples[which].append(1e3 * (time.perf_counter() - start))
    ratios = np.percentile(np.array(samples[0]) / np.array(samples[1]), [25, 50, 75])
    return {
        "float": float(np.median(samples[0])),
        "quantized": float(np.median(samples[1])),
        "ratio": [float(ratio) for ratio in ratios],
    }


def cpu() -> str:
    """Name of the CPU, as Linux or Python knows it."""
    lines = _cpu_lines()
    for key in ("model name", "CPU part", "Hardware"):
        if key in lines:
            return lines[key] if key != "CPU part" else "Arm part " + lines[key]
    return platform.processor() or platform.machine()


def flags() -> list[str]:
    """Instruction sets of this CPU that decide which kernels run."""
    lines = _cpu_lines()
    known = (lines.get("Features", "") + " " + lines.get("flags", "")).split()
    return [flag for flag in FLAGS if flag in known]


def _cpu_lines() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def as_text(row: Mapping[str, Any]) -> str:
    """A row of the table, and below it the layers that are not exact."""
    errors = {name: layer["error"] for name, layer in row["layers"].items()}
    worst = max(errors, key=lambda name: errors[name])
    exact = sum(error <= BOUND for error in errors.values())
    integer = sum(any(kernel in INTEGER for kernel in layer["kernel"].split(" + ")) for layer in row["layers"].values())
    ms, count = row["ms"], row["images"]
    speed = "never timed"
    if ms is not None:
        low, middle, high = ms["ratio"]
        speed = f"{ms['quantized']:.2f} ms, {middle:.2f}x float [{low:.2f}, {high:.2f}], {row['threads']} thread(s)"
    cells = (
        f"{row['cpu']} ({row['machine']}: {', '.join(row['flags']) or 'no int8 instructions'})",
        row["model"],
        f"{integer} of {len(errors)} layers on integer kernels",
        f"{exact} of {len(errors)} exact, worst {errors[worst]:.1e}",
        "answers not compared: noise"
        if row["same"] is None
        else f"same answer as float {row['same']:.1%} (n = {count})",
        speed,
        f"onnxruntime {row['onnxruntime']}, {row['date']}",
    )
    lines = ["| " + " | ".join(cells) + " |"]
    lines += [
        f"not exact: {name}, {error:.1e}, {row['layers'][name]['kernel']}"
        for name, error in errors.items()
        if error > BOUND
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
