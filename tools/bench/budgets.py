"""Compare predicted and measured time and size of files made for budgets, and time the allocation.

    python tools/bench/budgets.py float.onnx sensitivity.json
    python tools/bench/budgets.py --export deit_small_patch16_224     # random weights and costs
    python tools/bench/budgets.py --layers 1000                        # the allocation alone

Budgets are met with one width for each layer, and with widths of their own for groups of output channels.
Latency budgets are spaced evenly between the fastest and the slowest file. All files of one model are timed in turns in
one process, together with the float file. In each turn a file runs twice and its second run counts. Otherwise it would
find the caches full of another file's weights, which does not happen to a file that runs alone. Weights are rounded to
nearest: times and sizes do not depend on the rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lampq_onnx.allocation import AllocationOptions, Limits, allocate_within
from lampq_onnx.allocation.options import Granularity
from lampq_onnx.artifacts import ActivationRange, BitPlan, LatencyTable, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.runtime.probe import ProbeOptions, probe
from lampq_onnx.runtime.probe.layers import LayerShape, plain_weight
from lampq_onnx.runtime.sessions import open_runner
from lampq_onnx.targets import TARGETS, Target

GRANULARITIES: tuple[Granularity, ...] = ("layer", "group")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
SIZE_BITS = (2.5, 4.0, 6.0)
WARM_UP = 3
HEADS = (
    "budget", "granularity", "solved in, s", "in float", "predicted ms", "measured ms (quartiles)", "off",
    "promised MB", "MB", "off",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_model", nargs="?", type=Path)
    parser.add_argument("sensitivity", nargs="?", type=Path)
    parser.add_argument("--export", metavar="MODEL", help="export this timm model with random weights")
    parser.add_argument("--layers", type=int, help="only time the allocation, of this many random layers")
    parser.add_argument("--granularity", default=",".join(GRANULARITIES), help="layer, group or both")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.layers:
        time_allocation(options.layers)
        return
    with source(options.float_model, options.export) as path:
        sensitivities = Sensitivities.load(options.sensitivity) if options.sensitivity else made_up(path)
        wanted = [granularity for granularity in GRANULARITIES if granularity in options.granularity.split(",")]
        compare(path, sensitivities, wanted, options.rounds, options.threads)


@contextmanager
def source(path: Path | None, name: str | None) -> Iterator[Path]:
    if name is None:
        if path is None:
            raise SystemExit("give float.onnx, or --export MODEL")
        yield path
        return
    import timm
    import torch

    from lampq_onnx.frontend.models.export import export_model
    from lampq_onnx.frontend.models.loading import load_timm

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        checkpoint = Path(folder, "random.pth")
        model = timm.create_model(name)
        for parameter in model.parameters():
            # An exporter merges equal biases, which a trained model does not have.
            torch.nn.init.normal_(parameter, std=0.02)
        torch.save(model.state_dict(), checkpoint)
        target = Path(folder, "float.onnx")
        save_model(export_model(load_timm(name, checkpoint=checkpoint)).model, target)
        yield target


def made_up(path: Path, seed: int = 0) -> Sensitivities:
    """Layers of a graph, with random costs that fall by a factor of 4 per bit."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in find_layers(load_model(path).graph):
        shape = LayerShape.of(layer)
        matrix = layer.matrix().shape
        elements = int(np.prod(shape.input))
        layers.append(made_up_layer(layer.name, layer.type, (matrix[0], matrix[1]), elements, rng))
    return sensitivities_of(path.name, layers)


def made_up_layer(
    name: str, kind: str, shape: tuple[int, int], elements: int, rng: np.random.Generator
) -> LayerSensitivity:
    level = float(10.0 ** rng.uniform(-3, 0))
    return LayerSensitivity(
        name=name,
        type=kind,
        parameters=shape[0] * shape[1],
        shape=shape,
        fixed=kind in ("patch_embed", "head"),
        trace=level,
        nuclear_norm=1.0,
        weight_error={b: 4.0**-b for b in range(2, 9)},
        weight_cost={b: level * float(rng.uniform(0.7, 1.3)) * 4.0**-b for b in range(2, 9)},
        channel_shares=tuple(np.exp(rng.normal(0, 0.7, shape[0])).tolist()),
        activation_range=ActivationRange(low=-4, high=4),
        activation_cost={8: 1e-2 * level, 16: 1e-9},
        activation_elements=elements,
    )


def sensitivities_of(name: str, layers: Sequence[LayerSensitivity]) -> Sensitivities:
    return Sensitivities(
        model=ModelIdentity(name=name, weights_sha256="0" * 64, num_classes=1000),
        layers=tuple(layers),
        alpha={layer.type: 1.0 for layer in layers},
        alpha_bits=2,
        alpha_measure="kl",
        activation_bits=8,
        labels="sampled",
        calibration_images=1,
        seed=0,
        float_bytes=4 * sum(layer.parameters for layer in layers) + 10**6,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    budget: str
    granularity: Granularity
    limits: Limits


def compare(
    path: Path, sensitivities: Sensitivities, granularities: Sequence[Granularity], rounds: int, threads: int
) -> None:
    target = target_here("auto")
    start = time.perf_counter()
    table = probe(path, target, ProbeOptions(threads=threads))
    seconds = time.perf_counter() - start
    slowest = table.float_ms
    total = sum(model_layer.parameters for model_layer in sensitivities.layers)
    budgets = [(f"{ms:.2f} ms", Limits(max_ms=ms)) for ms in (_between(table.fastest_ms, slowest, s) for s in SHARES)]
    budgets += [
        (f"{size / 1e6:.2f} MB", Limits(max_bytes=size))
        for size in (int(table.float_bytes - 4 * total + total * bits / 8 + 0.1e6) for bits in SIZE_BITS)
    ]
    cases = [Case(words, granularity, limits) for words, limits in budgets for granularity in granularities]
    plans = [
        allocate_within(
            sensitivities, case.limits, AllocationOptions(granularity=case.granularity), target=target, table=table
        )
        for case in cases
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.onnx") for i in range(len(plans))]
        for file, (plan, _) in zip(files, plans, strict=True):
            convert(path, plan, target, file)
        times = in_turns([path, *files], rounds, threads)
        print(f"{path.name}: probe {seconds:.1f} s; {describe_environment(target.name).cpu}, {threads} thread(s)\n")
        print(f"| {' | '.join(HEADS)} |")
        print("|---" * len(HEADS) + "|")
        # Before the graph passes: the table's time of all layers in float is that of the graph behind them.
        print(f"| float | | | | | {_quartiles(times[0])} | | | {table.float_bytes / 1e6:.3f} | |")
        for case, file, (plan, solution), own in zip(cases, files, plans, times[1:], strict=True):
            left = sum(not layer.quantized for layer in plan.layers.values())
            ms, size = float(np.median(own)), file_bytes(file)
            assert plan.promised_ms is not None
            assert plan.promised_bytes is not None
            print(
                f"| {case.budget} | {case.granularity} | {solution.seconds:.2f} | {left} of {len(plan.layers)} | "
                f"{plan.promised_ms:.2f} | {_quartiles(own)} | {100 * (ms / plan.promised_ms - 1):+.1f} % | "
                f"{plan.promised_bytes / 1e6:.3f} | {size / 1e6:.3f} | "
                f"{100 * (size / plan.promised_bytes - 1):+.2f} % |"
            )


def convert(path: Path, plan: BitPlan, target: Target, output: Path) -> None:
    model = load_model(path)
    weights = {
        layer.name: plain_weight(layer.matrix(), plan.layers[layer.name].weight_bits)
        for layer in find_layers(model.graph)
        if layer.name in plan.layers
        and plan.layers[layer.name].channel_widths is None
        and 1 < plan.layers[layer.name].weight_bits <= 8
    }
    save_model(convert_model(model, plan, target=target, weights=weights).model, output)


def in_turns(files: Sequence[Path], rounds: int, threads: int) -> list[list[float]]:
    runners = [open_runner(file, threads=threads) for file in files]
    sizes = runners[0].session.get_inputs()[0].shape[1:]
    images = np.random.default_rng(0).normal(size=(1, *sizes)).astype(np.float32)
    samples: list[list[float]] = [[] for _ in files]
    for turn in range(WARM_UP + rounds):
        order = range(len(files)) if turn % 2 else reversed(range(len(files)))
        for which in order:
            runners[which](images)
            start = time.perf_counter()
            runners[which](images)
            if turn >= WARM_UP:
                samples[which].append(1e3 * (time.perf_counter() - start))
    return samples


def time_allocation(count: int) -> None:
    """Time mixes of budgets on layers with the shapes of a ViT-B and a random latency table."""
    rng = np.random.default_rng(0)
    shapes = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
    layers = [made_up_layer(f"layer{i}", "linear", shapes[i % 4], 197 * shapes[i % 4][1], rng) for i in range(count)]
    sensitivities = sensitivities_of("made up", layers)
    table = made_up_table(layers)
    total = sum(layer.parameters for layer in layers)
    print(f"{count} layers\n\n| budgets | seconds | result |\n|---|---|---|")
    for words, limits in (
        ("bits", Limits(bits=3.3)),
        ("size", Limits(max_bytes=int(total * 0.45))),
        ("latency", Limits(max_ms=0.6 * table.float_ms)),
        ("bits, latency", Limits(bits=6, max_ms=0.6 * table.float_ms)),
        ("size, latency, bit operations", Limits(max_bytes=int(total * 0.6), max_ms=0.6 * table.float_ms,
                                                 max_bops=60.0 * 197 * total)),
        ("size that nothing keeps", Limits(max_bytes=int(total * 0.2))),
    ):  # fmt: skip
        start = time.perf_counter()
        try:
            _, solution = allocate_within(
                sensitivities,
                limits,
                AllocationOptions(metric="kl"),
                target=TARGETS["onnxruntime-x86-vnni"],
                table=table,
            )
            result = "proven optimal" if solution.proven_optimal else f"gap {100 * solution.gap:.2g} %"
        except LampqError as error:
            result = f"refused: {error.message}"
        print(f"| {words} | {time.perf_counter() - start:.2f} | {result} |")


def made_up_table(layers: Sequence[LayerSensitivity]) -> LatencyTable:
    shapes = {layer.name: f"{layer.shape[0]}x{layer.shape[1]}" for layer in layers}
    work = {shapes[layer.name]: layer.parameters * 1e-6 for layer in layers}
    forms = (((32,), (32,), 1.0), (tuple(range(1, 9)), (8,), 0.37), (tuple(range(1, 9)), (16, 32), 1.04))
    return LatencyTable.model_validate(
        {
            "model": "made up", "target": "onnxruntime-x86-vnni", "cpu": "none", "onnxruntime": "none",
            "threads": 1, "batch": 1, "float_bytes": 4 * sum(layer.parameters for layer in layers) + 10**6,
            "float_ms": 1.3 * sum(work[shapes[layer.name]] for layer in layers), "fastest_ms": 1.0, "noise": 0.01,
            "context": 1.0,
            "layers": [{"name": name, "shape": shape} for name, shape in shapes.items()],
            "times": [
                {"shape": shape, "weight_bits": w, "activation_bits": a, "storages": () if w == (32,) else
                 ("exact", "native", "container"), "milliseconds": share * ms, "noise": 0.01}
                for shape, ms in work.items() for w, a, share in forms
            ],
        }
    )  # fmt: skip


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _quartiles(samples: Sequence[float]) -> str:
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
