"""Measure peak memory for models of several sizes and for several numbers of images.

    python -m tools.bench.scale models --shapes Ti,S,B,L     # convert and validate, compared with the float file
    python -m tools.bench.scale models --shapes 2GB          # over protobuf's limit, with external data
    python -m tools.bench.scale images --counts 128,1024,4096,10000
    python -m tools.bench.scale stages --help                # quantize, stage by stage: time and memory

Models have random weights. Every step is a process of its own. Its peak is the one that the system counted: resident
memory, including pages of mapped files. `start` is the peak of a process that only imports what the step imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.data import Preprocessing
from lampq_onnx.graph.keys import CLASSES_KEY, MODEL_KEY, PREPROCESSING_KEY
from lampq_onnx.graph.model_file import file_bytes
from lampq_onnx.runtime.environment import describe_environment

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20
CLASSES = 1000


@dataclass(frozen=True)
class Shape:
    dim: int
    depth: int
    heads: int
    side: int = 224
    patch: int = 16

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2


SHAPES = {
    "Ti": Shape(192, 12, 3),
    "S": Shape(384, 12, 6),
    "B": Shape(768, 12, 12),
    "L": Shape(1024, 24, 16),
    "2GB": Shape(2048, 11, 16, side=64),
    "small": Shape(64, 2, 2, side=32, patch=8),
}


class Writer:
    """A float ViT written straight to a file with external data, one tensor in memory at a time."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path, self.shape = path, shape
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.layers: dict[str, int] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        if array.nbytes < 1024:
            self.tensors.append(onnx.numpy_helper.from_array(array, name))
            return name
        tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT, data_location=1)
        offset = self.data.tell()
        self.data.write(array.tobytes())
        entries = {"location": self.path.name + ".data", "offset": offset, "length": array.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        weight = self.random.standard_normal((inputs, outputs), np.float32) * np.float32(inputs**-0.5)
        self.layers[name] = weight.size
        product = self.op("MatMul", x, self.constant(f"{name}.weight", weight))
        return self.op("Add", product, self.constant(f"{name}.bias", np.zeros(outputs, np.float32)))

    def norm(self, x: str, name: str) -> str:
        ones, zeros = np.ones(self.shape.dim, np.float32), np.zeros(self.shape.dim, np.float32)
        return self.op(
            "LayerNormalization",
            x,
            self.constant(f"{name}.weight", ones),
            self.constant(f"{name}.bias", zeros),
            axis=-1,
        )

    def ints(self, *values: int) -> str:
        name = "ints" + "_".join(map(str, values)).replace("-", "m")
        if all(tensor.name != name for tensor in self.tensors):
            self.constant(name, np.array(values, np.int64))
        return name

    def attention(self, x: str, name: str) -> str:
        s = self.shape
        joined = self.op("Reshape", self.linear(x, f"{name}.qkv", s.dim, 3 * s.dim), self.ints(0, 0, 3, s.heads, -1))
        joined = self.op("Transpose", joined, perm=[2, 0, 3, 1, 4])
        picked = []
        for i in range(3):
            index = f"{name}.{i}"
            self.tensors.append(onnx.numpy_helper.from_array(np.array(i, np.int64), index))
            picked.append(self.op("Gather", joined, index, axis=0))
        scale = self.constant(f"{name}.scale", np.array((s.dim / s.heads) ** -0.5, np.float32))
        keys = self.op("Transpose", picked[1], perm=[0, 1, 3, 2])
        scores = self.op("Softmax", self.op("Mul", self.op("MatMul", picked[0], keys), scale), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", scores, picked[2]), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", mixed, self.ints(0, 0, -1)), f"{name}.proj", s.dim, s.dim)

    def write(self) -> None:
        s = self.shape
        with self.path.with_name(self.path.name + ".data").open("wb") as self.data:
            kernel = self.random.standard_normal((s.dim, 3, s.patch, s.patch), np.float32) * np.float32(0.05)
            self.layers["patch_embed.proj"] = kernel.size
            sides = [s.patch, s.patch]
            x = self.op("Conv", "images", self.constant("patch_embed.proj.weight", kernel), strides=sides)
            x = self.op("Transpose", self.op("Reshape", x, self.ints(0, s.dim, -1)), perm=[0, 2, 1])
            for i in range(s.depth):
                x = self.op("Add", x, self.attention(self.norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn"))
                hidden = self.linear(self.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1", s.dim, 4 * s.dim)
                x = self.op("Add", x, self.linear(self.op("Gelu", hidden), f"blocks.{i}.mlp.fc2", 4 * s.dim, s.dim))
            pooled = self.op("ReduceMean", self.norm(x, "norm"), self.ints(1), keepdims=0)
            logits = self.linear(pooled, "head", s.dim, CLASSES)
        float32 = TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "vit",
            [helper.make_tensor_value_info("images", float32, ["batch", 3, s.side, s.side])],
            [helper.make_tensor_value_info(logits, float32, ["batch", CLASSES])],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        preprocessing = Preprocessing(
            size=(s.side, s.side), crop_pct=1.0, crop_mode="center", interpolation="bicubic",
            mean=(0.5,) * 3, std=(0.5,) * 3, channels=3,
        )  # fmt: skip
        facts = {MODEL_KEY: "random", CLASSES_KEY: str(CLASSES), PREPROCESSING_KEY: preprocessing.model_dump_json()}
        helper.set_model_props(model, facts)
        onnx.save(model, self.path)

    def plan(self, bits: int) -> BitPlan:
        interval = ActivationRange(low=-4, high=4)
        layer = LayerPlan(weight_bits=bits, activation_bits=8, activation_range=interval)
        return BitPlan(layers=dict.fromkeys(self.layers, layer))


def peak(*words: str | Path) -> tuple[float, float]:
    """Megabytes and seconds of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and "gate" not in said:
        raise SystemExit(f"{' '.join(map(str, words))}\n{said}")
    return usage.ru_maxrss * 1024 / MEGABYTE, time.perf_counter() - start


def images(path: Path, count: int, side: int, classes: int = CLASSES, channels: int = 3) -> Path:
    shape = (count, side, side, channels) if channels == 3 else (count, side, side)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(path, images=pixels, labels=np.arange(count) % classes)
    return path


def measure_models(names: list[str], bits: int, count: int) -> None:
    print("| shape | float, MB | written, MB | convert, MB | above start, of float | s | validate, MB | s |")
    print("|---|---|---|---|---|---|---|---|")
    base, _ = peak("-c", "import lampq_onnx.workflow.output, onnxscript.version_converter, onnx")
    for name in names:
        with tempfile.TemporaryDirectory() as room:
            folder, shape = Path(room), SHAPES[name]
            writer = Writer(folder / "float.onnx", shape)
            writer.write()
            writer.plan(bits).save(folder / "plan.json")
            size = file_bytes(folder / "float.onnx") / MEGABYTE
            lampq = ("-m", "lampq_onnx")
            files = (folder / "float.onnx", "--plan", folder / "plan.json", "-o", folder / "model.onnx")
            used, seconds = peak(*lampq, "convert", *files)
            written = file_bytes(folder / "model.onnx") / MEGABYTE
            pictures = images(folder / "images.npz", count, shape.side)
            pair = (folder / "model.onnx", "--reference", folder / "float.onnx", "--validation", pictures)
            checked, checking = peak(*lampq, "validate", *pair, "--threads", "1", "--latency-runs", "1")
            print(
                f"| {name} | {size:.0f} | {written:.0f} | {used:.0f} | {(used - base) / size:.2f} | {seconds:.0f} "
                f"| {checked:.0f} | {checking:.0f} |",
                flush=True,
            )
    print(f"\nstart: {base:.0f} MB; {count} validation images")


def measure_images(counts: list[int], calibration: list[int]) -> None:
    with tempfile.TemporaryDirectory() as room:
        folder, shape = Path(room), SHAPES["small"]
        writer = Writer(folder / "float.onnx", shape)
        writer.write()
        writer.plan(4).save(folder / "plan.json")
        lampq = ("-m", "lampq_onnx")
        files = (folder / "float.onnx", "--plan", folder / "plan.json", "-o", folder / "model.onnx")
        peak(*lampq, "convert", *files)
        print("| step | images | peak, MB | s |\n|---|---|---|---|")
        for count in counts:
            pictures = images(folder / "images.npz", count, shape.side)
            pair = (folder / "model.onnx", "--reference", folder / "float.onnx", "--validation", pictures)
            used, seconds = peak(*lampq, "validate", *pair, "--threads", "1", "--latency-runs", "1")
            print(f"| validate | {count} | {used:.0f} | {seconds:.0f} |", flush=True)
        for count in calibration:
            pictures = images(folder / "images.npz", count, 8, classes=10, channels=1)
            options = ("--calibration", pictures, "--calibration-size", count, "--effort", "fast", "--threads", "1")
            used, seconds = peak(*lampq, "quantize", "digits", *options, "--gate-agreement", "0", "-o", folder / "out")
            print(f"| quantize digits, fast | {count} | {used:.0f} | {seconds:.0f} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["stages"]:
        from tools.bench.stage_times import main as stage_times

        stage_times(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "images", "stages"])
    parser.add_argument("--shapes", default="Ti,S,B,L")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--counts", default="128,1024,4096,10000")
    parser.add_argument("--calibration", default="128,512,1024,4096")
    options = parser.parse_args()
    print(f"{describe_environment('any').cpu}\n")
    if options.what == "models":
        measure_models(options.shapes.split(","), options.bits, options.images)
    else:
        measure_images([*map(int, options.counts.split(","))], [*map(int, options.calibration.split(","))])


if __name__ == "__main__":
    main()
