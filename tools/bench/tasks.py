"""Measure the newer tasks at 8/8, 6/8 and 4/8 bits, each against its float model.

    python -m tools.bench.tasks                    # trains the reader and the map, two minutes on one core
    python -m tools.bench.tasks --only sequence --reader reader    # with the folder of an earlier `tools.reader`

Features are those of the embedded model without its head: pooled ones, and those of all tokens. The sequence is that of
a small reader of digits, see tools/reader.py; the map of distances is that of tools/relief.py. Each task's last row is
the float file with noise on the weights of one layer, as large as their spread: every score is worse than that of 8/8.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lampq_onnx
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing, iter_batches
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.evaluation.tasks.meters import meter_for, open_validation
from lampq_onnx.frontend.models.digits import SplitName, split_images
from lampq_onnx.frontend.models.loading import load_digits
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.environment import describe_environment
from tools import reader, relief

WIDTHS = (8, 6, 4)
PARTS: tuple[SplitName, SplitName] = ("calibration", "test")
BATCH = 50
NOISE = 1.0
COLUMNS = ("task", "model", "W/A", "score", "float", "quantized", "drop", "agreement", "SQNR, dB", "KL, nats")

Images = ImageSource | BatchedImages


class Tokens(torch.nn.Module):
    """The embedded model with the features of its tokens as output, and its class scores if wanted."""

    def __init__(self, *, scores: bool) -> None:
        super().__init__()
        self.vit, self.scores = load_digits().module, scores

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.vit.forward_features(images)
        return {"tokens": tokens, "logits": self.vit.forward_head(tokens)} if self.scores else {"tokens": tokens}


def headless() -> torch.nn.Module:
    """The embedded model without its head: one vector for each image."""
    module = load_digits().module
    module.reset_classifier(0)
    return module


@dataclass(frozen=True)
class Case:
    """A task with its model and its images.

    Attributes:
        name: of the rows.
        what: the model, in words.
        call: quantizes it to an average width, into a folder.
        images: opens its validation images.
    """

    name: str
    what: str
    call: Callable[[int, Path], Any]
    images: Callable[[], AbstractContextManager[Images]]


def digits_case(name: str, what: str, make: Callable[[], torch.nn.Module], outputs: tuple[str, ...]) -> Case:
    """A case of the embedded model's images."""

    def call(bits: int, folder: Path) -> Any:
        preprocessing = load_digits().preprocessing
        calibration, test = (batches(part, preprocessing) for part in PARTS)
        return lampq_onnx.quantize(
            make(), folder, preprocessing=preprocessing, calibration=calibration, validation=test, bits=bits,
            resume=False, effort="fast", outputs=outputs, task="auto" if outputs else "features", threads=1,
        )  # fmt: skip

    def images() -> AbstractContextManager[Images]:
        preprocessing = load_digits().preprocessing
        return BatchedImages(batches("test", preprocessing), preprocessing)

    return Case(name, what, call, images)


def batches(part: SplitName, preprocessing: Preprocessing) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images of the embedded split with their labels, in batches."""
    pixels, labels = split_images(part)
    crops = np.stack([preprocessing.crop(image) for image in pixels])
    images = torch.from_numpy(preprocessing.normalize(crops))
    return list(zip(images.split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True))


def reader_case(folder: Path) -> Case:
    """The reader of digits, trained before."""

    def call(bits: int, output: Path) -> Any:
        return lampq_onnx.quantize(
            reader.MODEL, output, checkpoint=folder / "model.safetensors", model_arg=dict(reader.ARGUMENTS),
            task="sequence", mean=(reader.MEAN,), std=(reader.STD,), crop=1.0, calibration=folder / "calibration.npz",
            validation=folder / "test.npz", bits=bits, resume=False, effort="fast", threads=1,
        )  # fmt: skip

    def images() -> AbstractContextManager[Images]:
        return nullcontext(open_validation(folder / "test.npz", TaskSpec(kind="sequence"), None))

    return Case("sequence", "reader of digits", call, images)


def relief_case() -> Case:
    """The map of distances, which is trained when it is first used."""
    preprocessing = load_digits().preprocessing

    def maps(part: SplitName) -> list[tuple[torch.Tensor, torch.Tensor]]:
        images, wanted = relief.pairs(part)
        return list(zip(images.split(BATCH), wanted.split(BATCH), strict=True))

    @cache
    def model() -> torch.nn.Module:
        return relief.trained(relief.STEPS)

    def call(bits: int, folder: Path) -> Any:
        return lampq_onnx.quantize(
            model(), folder, preprocessing=preprocessing, calibration=maps("calibration"), validation=maps("test"),
            bits=bits, resume=False, effort="fast", task="dense-regression", threads=1,
        )  # fmt: skip

    return Case("dense-regression", "distance to strokes", call, lambda: BatchedImages(maps("test"), preprocessing))


def cases(folder: Path) -> list[Case]:
    """All tasks; the reader is in ``folder``."""
    tokens = ("tokens=features",)
    return [
        digits_case("features (n, d)", "digits, pooled", headless, ()),
        digits_case("features (n, t, d)", "digits, all tokens", lambda: Tokens(scores=False), tokens),
        digits_case("several", "digits, scores and tokens", lambda: Tokens(scores=True), ("logits", *tokens)),
        reader_case(folder),
        relief_case(),
    ]


def damaged(path: Path, target: Path, size: float = NOISE, seed: int = 0) -> Path:
    """Write a float file with noise on the weights of one layer in the middle; ``size`` is relative to their spread."""
    model = onnx.load(path)
    weights = [value for value in model.graph.initializer if len(value.dims) == 2 and min(value.dims) > 8]
    own = weights[len(weights) // 2]
    array = numpy_helper.to_array(own)
    noise = np.random.default_rng(seed).normal(size=array.shape) * size * array.std()
    own.CopyFrom(numpy_helper.from_array((array + noise).astype(np.float32), own.name))
    onnx.save(model, target)
    return target


def compared(reference: Path, other: Path, images: Images) -> Accuracy:
    """The figures of a float file and another file on images, by the task that the float file states."""
    facts = read_metadata(load_model(reference), reference)
    runners = [open_runner(path, threads=1, answers=facts.task.outputs) for path in (reference, other)]
    meter = meter_for(facts.task, images, facts.preprocessing)
    opened = isinstance(images, BatchedImages)
    for batch in images.batches(BATCH) if opened else iter_batches(images, facts.preprocessing, BATCH):
        meter.add(runners[0](batch.images), runners[1](batch.images), batch)
    return meter.result()


def line(case: Case, width: str, found: Accuracy) -> str:
    """A row of the table."""
    sqnr = "exact" if found.logit_sqnr_db is None else f"{found.logit_sqnr_db:.1f}"
    drop = f"{found.drop_points:.2f} ± {found.standard_error_points:.2f}"
    scores = [f"{value.top1:.4f}" for value in (found.float_, found.quantized)]
    rest = (drop, f"{found.agreement:.3f}", sqnr, f"{found.kl:.3g}")
    return f"| {' | '.join((case.name, case.what, width, found.metric, *scores, *rest))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="part of the name of a task")
    parser.add_argument("--reader", type=Path, help="folder of the trained reader; default: train it")
    parser.add_argument("--steps", type=int, default=reader.STEPS, help="training steps of the reader")
    parser.add_argument("--bits", type=int, nargs="+", default=WIDTHS, help="average weight bits")
    options = parser.parse_args()
    environment = describe_environment("none")
    print(f"{environment.cpu}; onnxruntime {environment.versions['onnxruntime']}; effort fast\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        folder = options.reader or Path(room, "reader")
        for number, case in enumerate(cases(folder)):
            if options.only and options.only not in case.name:
                continue
            if case.name == "sequence" and options.reader is None:
                reader.write(reader.trained(options.steps), folder)
            for bits in options.bits:
                output = Path(room, f"{number}-{bits}")
                report = case.call(bits, output)
                print(line(case, f"{bits}/8", report.accuracy), flush=True)
            broken = damaged(output / FLOAT_FILE, Path(room, "damaged.onnx"))
            with case.images() as images:
                print(line(case, "damaged", compared(output / FLOAT_FILE, broken, images)), flush=True)


if __name__ == "__main__":
    main()
