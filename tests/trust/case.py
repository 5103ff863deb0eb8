"""What a case of bad input is, and the good files that the cases are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.converter import convert_model
from lampq_onnx.data import Preprocessing
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.quantization.weights_file import save_weights
from lampq_onnx.targets import TARGETS
from tests.converter import graphs

OUT = "$OUT"
"""Stands for the output of a case: a file or folder that exists already and must stay as it is."""


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Attributes:
        name: unique.
        words: the command line.
        says: what the message must contain.
        code: exit code.
    """

    name: str
    words: tuple[str | Path, ...]
    says: tuple[str, ...] = ()
    code: int = 1


@dataclass(frozen=True)
class Good:
    """A folder of valid files that belong together; `new` makes room for spoiled ones."""

    folder: Path
    _count: list[int] = field(default_factory=lambda: [0])

    @property
    def float(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def sensitivity(self) -> Path:
        return self.folder / "sensitivity.json"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def images(self) -> Path:
        return self.folder / "images.npz"

    def proto(self) -> onnx.ModelProto:
        return onnx.load(self.float)

    def new(self, name: str) -> Path:
        """A path in a folder of its own."""
        self._count[0] += 1
        room = self.folder / f"case{self._count[0]}"
        room.mkdir()
        return room / name

    def convert(self, model: Path | None = None, plan: Path | None = None, *more: str | Path) -> tuple[str | Path, ...]:
        return ("convert", model or self.float, "--plan", plan or self.plan, *more, "-o", OUT)

    def validate(
        self, model: Path | None = None, reference: Path | None = None, images: Path | None = None
    ) -> tuple[str | Path, ...]:
        words = ("validate", model or self.model, "--reference", reference or self.float)
        return (*words, "--validation", images or self.images, "--threads", "1", "--latency-runs", "1", "-o", OUT)


def make_good(folder: Path) -> Good:
    """A tiny ViT, its plan at 3 bits, the quantized file, rounded weights, sensitivities and eight images."""
    good = Good(folder)
    model = graphs.as_ir(graphs.vit(blocks=1))
    preprocessing = Preprocessing(
        size=(graphs.SIDE, graphs.SIDE),
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        channels=3,
    )
    write_metadata(model, "tiny", preprocessing, graphs.CLASSES)
    save_model(model, good.float)
    graph_layers = find_layers(model.graph)
    interval = ActivationRange(low=-4.0, high=4.0)
    layers = {
        graph_layer.name: LayerPlan(
            weight_bits=3,
            activation_bits=8,
            activation_range=interval,
            parameters=graph_layer.matrix().size,
            type=graph_layer.type,
        )
        for graph_layer in graph_layers
    }
    plan = BitPlan(model="tiny", budget=3.0, metric="kl", layers=layers)
    plan.save(good.plan)
    model_layers = tuple(
        LayerSensitivity(
            name=graph_layer.name,
            type=graph_layer.type,
            parameters=graph_layer.matrix().size,
            shape=graph_layer.matrix().shape,
            fixed=graph_layer.type in ("patch_embed", "head"),
            trace=1.0,
            nuclear_norm=1.0,
            weight_error={b: 4.0**-b for b in range(2, 9)},
            activation_range=interval,
        )
        for graph_layer in graph_layers
    )
    Sensitivities(
        model=ModelIdentity(name="tiny", weights_sha256="0" * 64, num_classes=graphs.CLASSES),
        layers=model_layers,
        alpha={model_layer.type: 1.0 for model_layer in model_layers},
        alpha_bits=2,
        alpha_measure="kl",
        activation_bits=8,
        labels="sampled",
        calibration_images=8,
        seed=0,
    ).save(good.sensitivity)
    conversion = convert_model(model, plan, target=TARGETS["onnxruntime-x86-vnni"])
    save_model(conversion.model, good.model)
    save_weights({name: numbers.weight for name, numbers in conversion.parameters.items()}, good.weights)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, graphs.SIDE, graphs.SIDE, 3), np.uint8)
    np.savez(good.images, images=pixels, labels=np.arange(8) % graphs.CLASSES)
    return good


def image_folder(good: Good, name: str, count: int = 3) -> Path:
    """A folder of labelled pictures 0.png ... with a labels.csv."""
    folder = good.new(name)
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(count)))
    return folder


def cuts(data: bytes, nested: tuple[int, ...] = ()) -> Iterator[tuple[str, int]]:
    """Places inside the fields of a protobuf message: (what is cut, length of the rest).

    Args:
        data: a serialized message.
        nested: field numbers whose messages are cut inside as well, e.g. (7,) for the graph of a model.
    """
    yield from _cuts(data, 0, len(data), "", nested)


def _cuts(data: bytes, start: int, end: int, path: str, nested: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    seen = set()
    while start < end:
        tag, after_tag = _varint(data, start)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, body = _varint(data, after_tag)
            stop = body + length
        elif wire == 0:
            _, stop = _varint(data, after_tag)
            body = after_tag
        else:
            body, stop = after_tag, after_tag + (4 if wire == 5 else 8)
        name = f"{path}{number}"
        if number not in seen:
            seen.add(number)
            yield f"{name}-tag", after_tag
            if wire == 2 and stop > body:
                yield f"{name}-length", body
                yield f"{name}-middle", (body + stop) // 2
                yield f"{name}-end", stop - 1
            if wire == 2 and nested and number == nested[0]:
                yield from _cuts(data, body, stop, f"{name}.", nested[1:])
        start = stop


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, start
