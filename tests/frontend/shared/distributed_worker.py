"""Run by torchrun: statistics of a tiny model, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from lampq_onnx.data import Batch
from lampq_onnx.evaluation.measure import measure_accuracy
from lampq_onnx.frontend.measuring.calibration import choose_ranges, nuclear_norms
from lampq_onnx.frontend.measuring.costs import activation_costs, directional_costs, weight_costs
from lampq_onnx.frontend.measuring.fisher import fisher_traces
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.measuring.histograms import input_histograms
from lampq_onnx.frontend.shared.batching import tensors
from lampq_onnx.frontend.shared.distributed import process_group
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.running.processes import Group
from tests.frontend.tiny_models import ArrayImages, layers_of, loaded, tiny_vit

IMAGES = 72  # four batches of 16, and one of 8
WIDTHS = (4, 8)


def statistics(group: Group) -> dict[str, object]:
    model = loaded(tiny_vit())
    module = model.module
    layers = layers_of(module)
    size = (model.preprocessing.channels, *model.preprocessing.size)
    pixels = np.random.default_rng(0).normal(size=(IMAGES, *size)).astype(np.float32)
    images = ArrayImages(pixels, None)
    device = torch.device("cpu")
    traces = fisher_traces(module, layers, tensors(images, device, group=group), seed=3, group=group)
    histograms = input_histograms(module, layers, images, group=group)
    widths = {layer.name: WIDTHS for layer in layers}
    # The second process has but the last, smaller batch of these.
    held_out = ArrayImages(pixels[:24], None)
    ranges, _ = choose_ranges(module, layers, images, held_out, widths=widths, seed=1, group=group)
    few = fisher_traces(module, layers, tensors(held_out, device, group=group), seed=5, group=group)
    linear = [layer for layer in layers if isinstance(layer.module, torch.nn.Linear)]
    moments = input_moments(module, linear, images, group=group)
    return {
        "own_images": sum(len(batch) for batch, _ in tensors(images, device, group=group)),
        "traces": traces,
        "few": few,
        "histograms": {name: [h.low, h.high, *h.counts.tolist()] for name, h in histograms.items()},
        "ranges": {f"{n} {w}": [r.low, r.high] for n, own in ranges.items() for w, r in own.items()},
        "norms": nuclear_norms(module, layers, images, group=group),
        "moments": {name: value.flatten().tolist() for name, value in moments.items()},
        "accuracy": accuracy(pixels, group),
        **costs(module, layers, ArrayImages(pixels[:21], None), group),
        # One image, which only the first process has.
        **{f"one {name}": value for name, value in costs(module, layers, ArrayImages(pixels[:1], None), group).items()},
    }


def costs(
    module: torch.nn.Module, layers: list[ModelLayer], images: ArrayImages, group: Group
) -> dict[str, dict[str, float]]:
    """Costs of weights, measured and estimated, and of inputs."""
    rounder = WeightRounder(layers)
    chain = BlockChain(module, layers, torch.from_numpy(images.images[:1]))
    quantizers = {layer.name: {4: ActivationQuantizer.from_range(-1.0, 1.0, 4)} for layer in layers}
    with live_model(module, layers) as live:
        weights = weight_costs(
            live, chain, images, layers, rounder, (2, 3, 6), expected_bits=3, batch_size=8, group=group
        )
        inputs = activation_costs(live, chain, images, quantizers, batch_size=8, group=group)
    estimated = directional_costs(module, images, layers, rounder, (2, 3, 6), seed=0, group=group)
    found = {"weight costs": weights, "input costs": inputs, "estimated costs": estimated}
    return {what: {f"{n} {b}": v for n, own in by.items() for b, v in own.items()} for what, by in found.items()}


def accuracy(pixels: np.ndarray, group: Group) -> dict[str, float]:
    """Of answers that are functions of the image, two models' worth."""
    flat = pixels.reshape(len(pixels), -1)[:, :7]
    labels = np.random.default_rng(1).integers(0, 7, len(pixels))
    batches = [Batch(images=flat[i : i + 8], labels=labels[i : i + 8], start=i) for i in range(0, len(flat), 8)]
    figures = measure_accuracy(
        lambda x: x, lambda x: x + 0.4 * np.sin(9 * x), lambda x: x + 0.4 * np.sin(8 * x), None, batches,
        total=len(flat), group=group,
    )  # fmt: skip
    found = figures.accuracy
    flat_figures = {k: v for k, v in found.model_dump().items() if isinstance(v, int | float)}
    return {**flat_figures, "excess": figures.excess_error, "compared": figures.compared, "top1": found.quantized.top1}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu") as own:
        Path(sys.argv[1], f"{own.rank}.json").write_text(json.dumps(statistics(own)))
