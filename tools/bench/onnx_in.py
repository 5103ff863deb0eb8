"""Check, for each exporter, that a .onnx file gives the same traces, plan and accuracy as the PyTorch model.

    python tools/bench/onnx_in.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --effort fast --bits 4

This writes four files of the model (torch's dynamo exporter at opsets 18 and 23, its TorchScript exporter at opset 17,
and transformers' ViT with the same weights). It runs `quantize` on the PyTorch model and on each file by itself, and
compares:

- traces: Spearman's rank correlation of the layers' Fisher traces; layers are matched by their weights.
- labels: the number of calibration images for which both draw the same label for the Fisher metric.
- bits: the number of layers with a different width.
- accuracy: top-1 of the file's result minus that of PyTorch's in points, ± its standard error over the images, and the
  share of images that both answer alike.
- import: the relative difference between the module that is built from the file and the file in onnxruntime.

Files go to a temporary folder and are removed. Each row is printed when its run ends.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

import lampq_onnx
from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.config.options import EffortName
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import by_name, section
from lampq_onnx.data import Batch, choose, iter_batches, open_source
from lampq_onnx.disk.files import MODEL_FILE, PLAN_FILE, SENSITIVITY_FILE
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.likelihoods.classification import sampled_labels
from lampq_onnx.frontend.measuring.analysis import TRACE_IMAGES
from lampq_onnx.frontend.opening import calibration_images, load_model
from lampq_onnx.frontend.shared.batching import BATCH
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.quantization.sketch import same_weights
from lampq_onnx.running.progress import NO_PROGRESS
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.environment import available_cores, describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.bench import exporters

VALIDATION_BATCH = 32
COLUMNS = ("from", "traces", "labels", "bits", "top-1", "accuracy", "agreement", "import", "seconds")

Export = Callable[[torch.nn.Module, Path, exporters.Shape], Path]

EXPORTS: dict[str, Export] = {
    "dynamo, opset 18": lambda model, path, shape: exporters.by_dynamo(model, path, 18, shape),
    "dynamo, opset 23": lambda model, path, shape: exporters.by_dynamo(model, path, 23, shape),
    "TorchScript, opset 17": lambda model, path, shape: exporters.by_torchscript(model, path, 17, shape),
    "transformers, opset 18": lambda model, path, shape: exporters.by_dynamo(
        exporters.transformers_vit(model, shape), path, 18, shape
    ),
}


@dataclass(frozen=True)
class Run:
    """The result of `quantize` for one model.

    Attributes:
        folder: its files.
        labels: those drawn for the Fisher metric, int64 (calibration images,).
        parity: of the import; 0 for a PyTorch model.
    """

    folder: Path
    report: Report
    labels: npt.NDArray[np.int64]
    parity: float
    seconds: float

    @property
    def sensitivities(self) -> Sensitivities:
        return Sensitivities.load(self.folder / SENSITIVITY_FILE)

    @property
    def plan(self) -> BitPlan:
        return BitPlan.load(self.folder / PLAN_FILE)


def matched(ours: Sensitivities, theirs: Sensitivities) -> dict[str, str]:
    """Match the layers of two models by their weights.

    Raises:
        LampqError: a layer has no counterpart, or one of another type.
    """
    left = list(theirs.layers)
    found: dict[str, str] = {}
    for layer in ours.layers:
        other = next((u for u in left if same_weights(layer.sketch or (), u.sketch or ())), None)
        if other is None or other.type != layer.type:
            what = "no counterpart" if other is None else f"a counterpart of type {other.type}"
            raise LampqError(f"the layer {layer.name} ({layer.type}) has {what} in {theirs.model.name}")
        left.remove(other)
        found[layer.name] = other.name
    if left:
        raise LampqError(f"the layer {left[0].name} of {theirs.model.name} has no counterpart")
    return found


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's rank correlation of numbers without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


@torch.no_grad()
def fisher_labels(loaded: LoadedModel, images: ImageOptions, effort: EffortName) -> npt.NDArray[np.int64]:
    """The labels that the analysis draws: the same images, batches and seed."""
    source, preprocessing = calibration_images(loaded, (), images, effort, NO_PROGRESS)
    generator = torch.Generator().manual_seed(images.seed)
    drawn = [
        sampled_labels(loaded.module(torch.from_numpy(batch.images)), generator).numpy()
        for batch in islice(iter_batches(source, preprocessing, BATCH), TRACE_IMAGES // BATCH)
    ]
    return np.concatenate(drawn)


def compared(base: Run, run: Run, batches: Iterable[Batch], threads: int) -> Accuracy:
    """Compare the quantized files of two runs on the same images, with the first as the reference."""
    reference, other = (open_runner(own.folder / MODEL_FILE, threads=threads) for own in (base, run))
    meter = AccuracyMeter()
    for batch in batches:
        assert batch.labels is not None
        meter.add(reference(batch.images), other(batch.images), batch.labels)
    return meter.result()


def row(name: str, base: Run, run: Run, accuracy: Accuracy) -> str:
    """Compare one file with PyTorch."""
    pairs = matched(base.sensitivities, run.sensitivities)
    ours = {layer.name: layer.trace for layer in base.sensitivities.layers}
    theirs = {layer.name: layer.trace for layer in run.sensitivities.layers}
    correlation = rank_correlation([ours[a] for a in pairs], [theirs[b] for b in pairs.values()])
    mine, its = base.plan.layers, run.plan.layers
    changed = sum(mine[a].weight_bits != its[b].weight_bits for a, b in pairs.items())
    equal = int((base.labels == run.labels).sum())
    cells = (
        name,
        f"{correlation:.4f}",
        f"{equal} of {len(base.labels)}",
        f"{changed} of {len(pairs)}",
        f"{100 * accuracy.quantized.top1:.2f} %",
        f"{0.0 - accuracy.drop_points:+.2f} ± {accuracy.standard_error_points:.2f}",
        f"{100 * accuracy.agreement:.1f} %",
        f"{run.parity:.1e}",
        f"{run.seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


@with_options("model", "images", "--effort", "--bits", "--activation-bits", "--threads")
def main(
    *,
    model: Annotated[str, typer.Argument(help="A plain ViT or DeiT of timm.")] = "deit_tiny_patch16_224",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of validation images; default: all.")] = None,
    exports: Annotated[
        str, typer.Option(help="Only exports whose names contain this, e.g. opset 23; default: all.")
    ] = "",
    values: Values,
) -> None:
    """Print the table of exporters."""
    given = {key: value for own in values.values() for key, value in own.items()}
    images = section("images", values)
    if images.validation is None or not isinstance(images.calibration, Path):
        raise UsageError("no images", hint="give --calibration and labelled --validation images")
    effort = section("analysis", by_name({"effort": given.get("effort")})).effort
    threads = given.get("threads") or available_cores()
    loaded = load_model(ModelOptions(**{**values.get("model", {}), "name": model}), images)
    pre = loaded.preprocessing
    source = open_source(images.validation, num_classes=loaded.identity.num_classes, need_labels=True)
    source = choose(source, limit, images.seed) if limit is not None else source
    environment = describe_environment("none")
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("onnxruntime", "torch", "timm"))
    print(f"{model}, effort {effort}, {environment.cpu}, {threads} thread(s), {versions}")
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)

    def batches() -> Iterator[Batch]:
        return iter_batches(source, pre, VALIDATION_BATCH)

    def quantize(name: str, folder: Path, options: dict[str, Any], own: LoadedModel) -> Run:
        start = time.perf_counter()
        pairs = ((batch.images, batch.labels) for batch in batches())
        all_of_it = {**options, "validation": pairs, "figures": "all"}  # traces are compared whatever the metric is
        report = lampq_onnx.quantize(name, folder, **all_of_it, resume=False, latency_runs=1)
        seconds = time.perf_counter() - start
        with torch_threads(threads):
            labels = fisher_labels(own, images, effort)
        return Run(folder, report, labels, own.source.parity if own.source is not None else 0.0, seconds)

    with tempfile.TemporaryDirectory(prefix="lampq-") as temporary:
        room = Path(temporary)
        base = quantize(model, room / "pytorch", given, loaded)
        top1 = f"{100 * base.report.accuracy.quantized.top1:.2f} %"
        print(f"| PyTorch | | | | {top1} | | | | {base.seconds:.0f} |", flush=True)
        # A file knows its weights, but not the images that it expects.
        facts = {key: value for key, value in given.items() if key not in ("checkpoint", "pretrained", "model_args")}
        facts |= {"mean": pre.mean, "std": pre.std, "crop": pre.crop_pct}
        told = images.model_copy(update={key: facts[key] for key in ("mean", "std", "crop")})
        for index, (name, export) in enumerate(EXPORTS.items()):
            if exports not in name:
                continue
            file = export(loaded.module, room / f"file{index}.onnx", (pre.channels, *pre.size))
            own = load_model(ModelOptions(name=str(file)), told)
            run = quantize(str(file), room / f"run{index}", facts, own)
            print(row(name, base, run, compared(base, run, batches(), threads)), flush=True)
    print(f"\nn = {base.report.accuracy.samples}, {len(base.labels)} calibration images, ", end="")
    print(
        f"{base.report.bits.weight_average:.2f} bits on average; float {100 * base.report.accuracy.float_.top1:.2f} %"
    )


if __name__ == "__main__":
    run_tool(main)
