"""Load a result in transformers.js, in Node and in a page of Chromium, and compare its answers with Python's.

    npm install --ignore-scripts @huggingface/transformers
    python -m tools.bench.web out --images images/val --modules node_modules
    python -m tools.bench.web out --images images/val --modules node_modules --only node --json

The page is real and headless; it is served on 127.0.0.1, and needs `pip install playwright` and a Chromium. Images are
given twice: prepared by Python, and as files that the library prepares itself. One thread everywhere.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.disk.files import FLOAT_FILE, MODEL_FILE
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import describe_environment, open_runner
from lampq_onnx.serving.formats import package
from lampq_onnx.serving.transformers_js import FILES
from tools.bench.web.page import in_chromium

NODE = Path(__file__).with_name("node.mjs")
NAME = "packed"
PLACES = ("node", "chromium")

Array = npt.NDArray[np.float32]


def write_job(result: Path, source: Path, count: int, folder: Path) -> dict[str, Any]:
    """Package a result, and write images for it: prepared ones, and files in PNG as they are; return the job."""
    package(result, "transformers-js", folder / NAME)
    path = result / MODEL_FILE
    facts = read_metadata(load_model(path), path)
    opened = choose(open_source(source, num_classes=facts.num_classes, need_labels=False), count, 0)
    images = np.concatenate([batch.images for batch in iter_batches(opened, facts.preprocessing, count)])
    pixels = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    pixels.astype(np.float32).tofile(folder / "pixels.f32")
    np.save(folder / "images.npy", images)
    names = []
    for index in range(len(images)):
        names.append(f"{index}.png")
        pixel = opened.image(index)
        (pixel if isinstance(pixel, Image.Image) else Image.fromarray(pixel.squeeze())).save(folder / names[-1])
    return {
        "model": NAME,
        "tensors": "pixels.f32",
        "images": names,
        "shape": list(pixels.shape),
        "dtypes": list(FILES),
    }


def in_node(job: dict[str, Any], folder: Path, modules: Path) -> dict[str, Any]:
    """Run a job in Node."""
    own = job | {
        "folder": f"{folder}/",
        "tensors": str(folder / job["tensors"]),
        "images": [str(folder / name) for name in job["images"]],
        "session": {"intraOpNumThreads": 1, "interOpNumThreads": 1},
    }
    (folder / "job.json").write_text(json.dumps(own), encoding="utf-8")
    command = ["node", str(NODE), str(modules.resolve()), str(folder / "job.json"), str(folder / "answers.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"node: {done.stderr.strip()[-500:]}")
    answers: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return answers


def compared(found: dict[str, Any], result: Path, folder: Path) -> dict[str, Any]:
    """Figures of one place: answers against Python's, times against the float file's."""
    images = np.load(folder / "images.npy")
    row: dict[str, Any] = {"runtime": found["runtime"], "library": found["version"], "n": len(images)}
    for file, name in zip(found["files"], (MODEL_FILE, FLOAT_FILE), strict=True):
        wanted = open_runner(result / name, threads=1)(images)
        own = np.array(file["logits"], np.float32)
        row[file["dtype"]] = {
            "bytes": (folder / NAME / FILES[file["dtype"]]).stat().st_size,
            "load": file["load"],
            "ms": float(np.median(file["times"])),
            "same": float(np.mean(own.argmax(-1) == wanted.argmax(-1))),
            "error": float(np.linalg.norm(own - wanted) / np.linalg.norm(wanted)),
        }
        if name == MODEL_FILE:
            names = json.loads((folder / NAME / "config.json").read_text(encoding="utf-8"))["id2label"]
            labels = [names[str(best)] for best in wanted.argmax(-1)]
            row["same_files"] = float(np.mean([a == b for a, b in zip(found["labels"], labels, strict=True)]))
    own_times, other = (np.array(file["times"]) for file in found["files"])
    row["speedup"] = [float(x) for x in np.percentile(other / own_times, (50, 25, 75))]
    return row


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table in docs/runtime/web.md."""
    print(
        "| where | file | MB | load, ms | image, ms | as fast as float | answers of Python, same pixels | error of the "
        "logits | answers of Python, image files |\n|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        middle, low, high = row["speedup"]
        for dtype, speed, files in (
            ("q8", f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{row['same_files']:.1%} (n = {row['n']})"),
            ("fp32", "", ""),
        ):
            own = row[dtype]
            cells = [
                row["runtime"],
                FILES[dtype],
                f"{own['bytes'] / 1e6:.2f}",
                f"{own['load']:.0f}",
                f"{own['ms']:.1f}",
            ]
            cells += [speed, f"{own['same']:.1%} (n = {row['n']})", f"{own['error']:.0e}", files]
            print("| " + " | ".join(cells) + " |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each place and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a folder that quantize wrote")
    parser.add_argument("--images", type=Path, required=True, help="images whose answers are compared")
    parser.add_argument("--modules", type=Path, required=True, help="node_modules with @huggingface/transformers")
    parser.add_argument("--count", type=int, default=32, help="number of images (default 32)")
    parser.add_argument("--runs", type=int, default=60, help="timed turns (default 60)")
    parser.add_argument("--loads", type=int, default=5, help="timed loads (default 5)")
    parser.add_argument("--only", choices=PLACES, help="only one of the places")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="program of Chromium")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lampq-web-") as room:
        folder = Path(room)
        job = write_job(asked.result, asked.images, asked.count, folder)
        job |= {"runs": asked.runs, "loads": asked.loads}
        rows = []
        for place in PLACES if asked.only is None else (asked.only,):
            if place == "node":
                found = in_node(job, folder, asked.modules)
            else:
                found = in_chromium(job, folder, asked.modules, asked.chromium)
            rows.append(compared(found, asked.result, folder))
    if asked.json:
        print(json.dumps(rows))
        return
    environment = describe_environment("")
    print(
        f"{asked.result.name}; {environment.cpu} ({', '.join(environment.cpu_flags)}), one thread, transformers.js "
        f"{rows[0]['library']}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}\n"
    )
    print_rows(rows)


if __name__ == "__main__":
    main()
