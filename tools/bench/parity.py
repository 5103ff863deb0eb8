"""Check that every runtime computes the same function from a written file, layer by layer on the same inputs.

    python tools/bench/parity.py                          # all forms of a small ViT
    python tools/bench/parity.py --runtimes onnxruntime,reference --bits 3,8

Every form (storage x weight bits x input bits x opset x form of the layers in the float graph) is written once for
this machine's target, and once for OpenVINO's.

Each quantized layer is cut out and fed the values that it reads in the unoptimized file. The figure is the largest
relative L2 distance of a layer's output from plain QDQ arithmetic in float64. In whole models, values near a rounding
boundary may round to the other side. So for whole models the figure is the error to the float model divided by that
of the unoptimized file, minus 1. Inputs of 16 bits have a wider bound: a value on a rounding boundary moves by a
level, which is 1.5e-5 of the range.

Forms that a runtime's target forbids are left out (OpenVINO: INT2 and INT4 storage, inputs of 16 bits, opsets above
20), and so are opsets that onnx's reference lacks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.convert import Conversion
from lampq_onnx.converter.passes.product_per_part import MOST_PARTS
from lampq_onnx.graph.layers import GraphLayer, find_layers
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.runtime.fidelity import cut_layers
from lampq_onnx.targets import PACKINGS, Target
from tests.converter import graphs

LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
IMAGES, LAYER_IMAGES = 64, 8
GELU_OPSET = 20  # the first that has the operator

Array = np.ndarray
Run = Callable[[onnx.ModelProto, Array], list[Array]]

REFERENCE_OPSET = 19  # the lowest whose DequantizeLinear onnx's reference evaluator has
LAYER_BOUND, WIDE_LAYER_BOUND = 1e-5, 1e-4  # inputs of up to 8 bits, and of 16: a flip there is 1.5e-5 of the range


@dataclass(frozen=True)
class Runtime:
    """A runtime, the opsets that it knows, and the target that says which forms are written for it."""

    run: Run
    lowest_opset: int = 0
    target: Target | None = None

    def takes(self, form: Form) -> bool:
        """Whether the form is written for this runtime."""
        if form.opset < self.lowest_opset:
            return False
        if self.target is None:
            return True
        kernel = self.target.kernel(form.weight_bits, form.activation_bits)
        return form.packing in self.target.packings and kernel is not None and form.opset <= self.target.opset


@dataclass(frozen=True)
class Form:
    packing: str
    weight_bits: int
    activation_bits: int
    opset: int
    linear: str

    @property
    def bound(self) -> float:
        """Relative L2 distance of a layer's output."""
        return LAYER_BOUND if self.activation_bits <= 8 else WIDE_LAYER_BOUND

    def __str__(self) -> str:
        return f"{self.packing} W{self.weight_bits}A{self.activation_bits} opset {self.opset} {self.linear}"


def with_onnxruntime(level: str, threads: int) -> Run:
    def run(model: onnx.ModelProto, x: Array) -> list[Array]:
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[level]
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(part) for part in session.run(None, {model.graph.input[0].name: x})]

    return run


def with_reference(model: onnx.ModelProto, x: Array) -> list[Array]:
    return [np.asarray(part) for part in ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})]


def with_openvino(model: onnx.ModelProto, x: Array) -> list[Array]:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString(), b""),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"},
    )
    found = compiled([x])
    return [np.asarray(found[at]) for at in range(len(compiled.outputs))]


def runtimes(names: Sequence[str]) -> dict[str, Runtime]:
    found: dict[str, Runtime] = {}
    if "onnxruntime" in names:
        found |= {f"ort {level}, {n} thr": Runtime(with_onnxruntime(level, n)) for level in LEVELS for n in (1, 2)}
    if "reference" in names:
        found["onnx reference"] = Runtime(with_reference, REFERENCE_OPSET)
    if "openvino" in names:
        try:
            import openvino
        except ImportError:
            print("OpenVINO is not installed (pip install 'lampq-onnx[openvino]'): its column is left out\n")
        else:
            version = openvino.__version__.split("-")[0]
            found[f"OpenVINO {version}"] = Runtime(with_openvino, target=target_here("openvino"))
    return found


@dataclass(frozen=True)
class Written:
    """One form's files: float and quantized model, images, and each layer cut out with its input and its result."""

    model: onnx.ModelProto
    quantized: onnx.ModelProto
    images: Array
    layers: Sequence[tuple[str, onnx.ModelProto, Array, Array]]


def written(form: Form, target: Target, folder: Path) -> Written:
    gelu = "op" if form.opset >= GELU_OPSET else "erf"
    model = graphs.vit(linear=form.linear, gelu=gelu, blocks=1, opset=form.opset, seed=form.weight_bits)
    images = np.random.default_rng(1).normal(size=(IMAGES, 3, graphs.SIDE, graphs.SIDE)).astype(np.float32)
    graph_layers = find_layers(graphs.as_ir(model).graph)
    names = [graph_layer.input.name or "" for graph_layer in graph_layers]
    inner = [name for name in dict.fromkeys(names) if name != "images"]
    values = dict(
        zip(inner, graphs.session(graphs.with_outputs(model, *inner)).run(None, {"images": images}), strict=True)
    )
    values["images"] = images
    layers = {
        graph_layer.name: LayerPlan(
            weight_bits=form.weight_bits,
            activation_bits=form.activation_bits,
            activation_range=ActivationRange(low=float(values[name].min()), high=float(values[name].max())),
        )
        for graph_layer, name in zip(graph_layers, names, strict=True)
    }
    conversion = convert_model(graphs.as_ir(model), BitPlan(layers=layers), packing=form.packing, target=target)  # type: ignore[arg-type]
    path = folder / "model.onnx"
    save_model(conversion.model, path)
    found = inspect_model(conversion.model)
    by_name = {graph_layer.name: graph_layer for graph_layer in graph_layers}
    pieces = [
        (layer.name, piece, x, _in_order(piece, by_hand(by_name[layer.name], conversion, x)))
        for layer, (piece, x) in zip(found, cut_layers(path, found, images[:LAYER_IMAGES], threads=1), strict=True)
    ]
    return Written(model, onnx.load(path), images, pieces)


def _in_order(piece: onnx.ModelProto, result: Array) -> Array:
    """The result in the order of the piece, which may move tokens in front of images (`passes.tokens_first`)."""
    moved = any(node.op_type == "Transpose" for node in piece.graph.node)
    return result.swapaxes(0, 1) if moved else result


def relative(found: Sequence[Array], wanted: Array) -> float:
    """Distance of a result that consists of parts along the channels, each perhaps in another shape."""
    if sum(part.size for part in found) != wanted.size:
        return float("inf")
    rows = wanted.size // wanted.shape[-1]
    joined = np.concatenate([part.reshape(rows, -1) for part in found], axis=1).reshape(wanted.shape)
    size = max(float(np.linalg.norm(wanted.astype(np.float64))), 1e-30)
    return float(np.linalg.norm(joined.astype(np.float64) - wanted)) / size


def by_hand(layer: GraphLayer, conversion: Conversion, x: Array) -> Array:
    """The layer's QDQ arithmetic in numpy: float32 rounding of the input, float64 sums."""
    numbers = conversion.parameters[layer.name]
    values = x if numbers.activation is None else numbers.activation.fake(x)
    result: Array = values.astype(np.float64) @ numbers.weight.dequantize().astype(np.float64).T
    there = conversion.model.graph.initializers
    labels = [f"{layer.name}{part}.bias.quantized" for part in ("", *(f".{index}" for index in range(MOST_PARTS)))]
    inside = [constant_array(there[label]) for label in labels if label in there]
    if inside and numbers.activation is not None:  # the kernel adds it, in these steps
        steps = np.float32(numbers.activation.scale) * numbers.weight.scale
        return result + np.concatenate(inside).astype(np.float64) * steps
    return result if layer.bias is None else result + constant_array(layer.bias).astype(np.float64)


@dataclass(frozen=True)
class Result:
    layers: float
    whole: float
    failure: str = ""


def measure(files: Written, run: Run) -> Result:
    try:
        errors = {name: relative(run(piece, x), expected) for name, piece, x, expected in files.layers}
        wanted = graphs.run(files.model, files.images)
        plain = relative([graphs.run(files.quantized, files.images)], wanted)
        return Result(max(errors.values()), relative(run(files.quantized, files.images), wanted) / plain - 1)
    except Exception as error:  # each runtime raises its own kinds; a form that one refuses is a result
        return Result(float("inf"), float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def forms(options: argparse.Namespace) -> Iterator[Form]:
    for packing, bits, inputs, opset, linear in itertools.product(
        options.packings, options.bits, options.activation_bits, options.opsets, options.linear
    ):
        yield Form(packing, bits, inputs, opset, linear)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--packings", type=words, default=list(PACKINGS))
    parser.add_argument("--bits", type=numbers, default=list(range(1, 9)))
    parser.add_argument("--activation-bits", type=numbers, default=[4, 8, 16])
    parser.add_argument("--opsets", type=numbers, default=[17, 20, 21, 23])
    parser.add_argument("--linear", type=words, default=["matmul", "gemm"])
    parser.add_argument("--runtimes", type=words, default=["onnxruntime", "reference", "openvino"])
    parser.add_argument("--target", default="auto")
    options = parser.parse_args()
    target = target_here(options.target)
    environment = describe_environment(target.name)
    print(f"{environment.cpu}, target {target.name}, onnxruntime {environment.versions['onnxruntime']}, ", end="")
    print(f"onnx {environment.versions['onnx']}; {IMAGES} random images\n")
    columns = runtimes(options.runtimes)
    grid = list(forms(options))
    rows: dict[str, list[tuple[Form, Result]]] = {name: [] for name in columns}
    with tempfile.TemporaryDirectory() as room:
        for form in grid:
            files: dict[str, Written] = {}
            for name, runtime in columns.items():
                place = runtime.target or target
                if runtime.takes(form):
                    if place.name not in files:
                        files[place.name] = written(form, place, Path(room))
                    rows[name].append((form, measure(files[place.name], runtime.run)))
    print(
        "| runtime | forms | not for it | worst layer | 16-bit inputs | median form | excess, median (max) | outside |"
    )
    print("|---|---|---|---|---|---|---|---|")
    outside = 0
    details = []
    for name, results in rows.items():
        ran = [(form, r) for form, r in results if not r.failure]
        bad = [(form, r) for form, r in results if r.failure or r.layers > form.bound]
        outside += len(bad)
        layers, whole = [r.layers for _, r in ran] or [np.inf], [r.whole for _, r in ran] or [np.inf]
        narrow, wide = (
            max((r.layers for form, r in ran if (form.activation_bits > 8) == is_wide), default=np.nan)
            for is_wide in (False, True)
        )
        print(
            f"| {name} | {len(results)} | {len(grid) - len(results)} | {narrow:.1e} | {wide:.1e} "
            f"| {np.median(layers):.1e} | {100 * np.median(whole):.2f} % ({100 * max(whole):.1f} %) | {len(bad)} |"
        )
        details += [f"{name}: {form}: {r.failure or f'{r.layers:.1e}'}" for form, r in bad]
    if details:
        print(f"\nA layer above {LAYER_BOUND:g} ({WIDE_LAYER_BOUND:g} for inputs of 16 bits), or refused:\n")
        print("\n".join(f"- {line}" for line in details[:60]))
        if len(details) > 60:
            print(f"- and {len(details) - 60} more")
    return int(outside > 0)


if __name__ == "__main__":
    raise SystemExit(main())
