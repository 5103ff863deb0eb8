"""onnxruntime-web in Node: the WebAssembly that browsers run. `LAMPQ_NODE_MODULES` names a node_modules that has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lampq_onnx.converter import inspect_model
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.fidelity import cut_layers
from lampq_onnx.runtime.sessions import open_session
from lampq_onnx.targets import TARGETS, Packing
from tools.bench.targets.case import Case, Row, not_run

RUNTIME = "onnxruntime-web"
READER = Path(__file__).with_name("reader.mjs")
FILES: tuple[tuple[str, int, Packing], ...] = (
    ("onnxruntime-x86-vnni", 8, "exact"),
    ("onnxruntime-x86-vnni", 5, "exact"),
    ("onnxruntime-x86-vnni", 4, "exact"),
    ("onnxruntime-x86-avx2", 8, "exact"),
    ("onnxruntime-arm64", 8, "exact"),
    ("onnxruntime-arm64", 4, "native"),
)
"""Target, bits of the weights, storage: no target is made for the web, whose CPUs are of all kinds."""
LAYER_IMAGES, ANSWERED, TIMED_RUNS = 1, 32, 15
MATCHED = re.compile(r"MatchAndProcess\] Matched (?:MatMul|Gemm|Conv)\b")

Job = dict[str, Any]


def rows(case: Case) -> Iterator[Row]:
    """A row for each file."""
    modules = os.environ.get("LAMPQ_NODE_MODULES")
    if modules is None or shutil.which("node") is None:
        why = "LAMPQ_NODE_MODULES names no node_modules" if modules is None else "node is not installed"
        yield not_run(RUNTIME, "those of x86 and arm64", why)
        return
    for target, bits, packing in FILES:
        yield row_of(case, Path(modules), target, bits, packing)


def row_of(case: Case, modules: Path, target: str, bits: int, packing: Packing) -> Row:
    """What WebAssembly does with one file."""
    path = case.file(TARGETS[target], bits, 8, packing)
    place = f"{target}, {packing}"
    images = case.images[:ANSWERED]
    name = str(load_model(path).graph.inputs[0].name)
    whole = [job_of([path], name, images, case.folder, "images")]
    for batch in (1, 8):
        x = np.resize(case.images, (batch, *case.images.shape[1:]))
        whole.append(job_of([path, case.float_file], name, x, case.folder, f"batch{batch}", runs=TIMED_RUNS))
    try:
        answer, _ = run(modules, whole, case.folder)
        said = run(modules, whole[:1], case.folder, "--explain")[1]
        worst, products = worst_layer(path, case, modules)
    except RuntimeError as error:
        return Row(RUNTIME, place, f"W{bits}/A8", loads=f"refused: {str(error)[:150]}".replace("|", "/"))
    outputs = np.array(next(iter(answer["found"][0]["outputs"][0].values())), np.float32).reshape(len(images), -1)
    wanted = open_runner(case.float_file, threads=1)(images).argmax(-1)
    speeds = []
    for timed in answer["found"][1:]:
        own, other = (np.array(times) for times in timed["times"])
        middle, low, high = np.percentile(other / own, (50, 25, 75))
        speeds.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
    return Row(
        f"{RUNTIME} {answer['version']}, WebAssembly in Node {answer['node']}",
        place,
        f"W{bits}/A8",
        loads="yes",
        integer=f"{len(MATCHED.findall(said))} of {products} products",
        worst=f"{worst:.0e}",
        agreement=f"{100 * float(np.mean(outputs.argmax(-1) == wanted)):.1f} % (n = {len(wanted)})",
        speed=", ".join(speeds),
    )


def worst_layer(path: Path, case: Case, modules: Path) -> tuple[float, int]:
    """Largest relative error of a layer against its plain arithmetic on the same input, and the number of products."""
    layers = inspect_model(load_model(path))
    jobs, wanted = [], []
    pieces = cut_layers(path, layers, case.images[:LAYER_IMAGES], threads=1)
    for at, (layer, (piece, values)) in enumerate(zip(layers, pieces, strict=True)):
        file = case.folder / f"layer{at}.onnx"
        file.write_bytes(piece.SerializeToString())
        jobs.append(job_of([file], layer.input, values, case.folder, f"layer{at}"))
        session = open_session(piece.SerializeToString(), threads=1, optimize=False)
        wanted.append(session.run(list(layer.outputs), {layer.input: values}))
    answer, _ = run(modules, jobs, case.folder)
    errors = []
    for layer, found, parts in zip(layers, answer["found"], wanted, strict=True):
        own = np.concatenate([np.array(found["outputs"][0][name]) for name in layer.outputs])
        plain = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
        errors.append(float(np.linalg.norm(own - plain) / max(np.linalg.norm(plain), 1e-30)))
    return max(errors), sum(len(layer.outputs) for layer in layers)


def job_of(models: list[Path], name: str, values: np.ndarray, folder: Path, label: str, runs: int = 0) -> Job:
    """Write the values, and name the files of a job."""
    place = folder / f"{label}.f32"
    np.ascontiguousarray(values, np.float32).tofile(place)
    return {
        "models": list(map(str, models)),
        "input": name,
        "values": str(place),
        "dims": list(values.shape),
        "runs": runs,
    }


def run(modules: Path, jobs: list[Job], folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Run jobs in Node; return the answers, and what was said on the console.

    Raises:
        RuntimeError: the runtime failed; its own last words.
    """
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = ["node", str(READER), str(modules.resolve()), str(folder / "jobs.json"), str(folder / "answers.json")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode:
        errors = [text for text in said.splitlines() if "Error" in text]
        raise RuntimeError(errors[-1].strip() if errors else f"exit code {done.returncode}")
    answer: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return answer, said
