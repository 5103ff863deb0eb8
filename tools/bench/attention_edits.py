"""Time whole files whose attention was edited, in turns with the unedited files.

    python -m tools.bench.runtime attention FOLDER --model deit_small_patch16_224

- scale folded: the factors of queries and keys are moved into the weights of the queries. This is made for timm's
  layout (queries first in a joint qkv layer) and checked: the file must give the same answers as before.
- int8 products: the same, and both products of attention are quantized (uint8 queries, int8 keys, uint8 probabilities
  with a step of 1/255, int8 values, one scale for each tensor). The ranges are arbitrary, because only times count.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.runtime.sessions import session_options

CONSTANTS = {
    "step": np.float32(0.03),
    "share": np.float32(1 / 255),
    "middle": np.uint8(128),
    "bottom": np.uint8(0),
    "signed": np.int8(0),
}
"""Scales and zero points of the products; made up, since only times count."""

ALIKE = 0.02
"""Largest relative difference of logits after folding: scales that are rounded differently flip a few roundings."""


@dataclass(frozen=True)
class Edit:
    """A file and an edited one.

    Attributes:
        limit: largest relative difference between their logits; None: they differ.
    """

    label: str
    plain: Path
    edited: Path
    limit: float | None


def fold_scales(source: Path, path: Path) -> int:
    """Write ``source`` with the factors of queries and keys in the weights of the queries; return how many layers.

    Raises:
        LampqError: a factor leads to no linear layer with a bias.
    """
    model = load_model(source)
    folded = 0
    for softmax in [node for node in model.graph if node.op_type == "Softmax"]:
        product = _producer(softmax.inputs[0])
        if product is None or product.op_type != "MatMul":
            continue
        factor = 1.0
        for at in range(2):
            scaling = _producer(product.inputs[at])
            if scaling is None or scaling.op_type != "Mul":
                continue
            constant = next((v for v in scaling.inputs if _array(v) is not None and _array(v).size == 1), None)
            if constant is None:
                continue
            factor *= float(_array(constant).reshape(-1)[0])
            product.replace_input_with(at, next(v for v in scaling.inputs if v is not constant))
            model.graph.remove(scaling, safe=True)
        if factor != 1.0:
            _scale_queries(product.inputs[0], factor)
            folded += 1
    save_model(model, path)
    return folded


def quantize_products(source: Path, path: Path) -> int:
    """Write ``source`` with both products of every attention layer in 8 bits; return how many products."""
    model = load_model(source)
    constants = {
        name: ir.Value(name=f"attention.{name}", const_value=ir.tensor(array, name=f"attention.{name}"))
        for name, array in CONSTANTS.items()
    }
    for constant in constants.values():
        model.graph.register_initializer(constant)
    count = 0
    for softmax in [node for node in model.graph if node.op_type == "Softmax"]:
        mixing = softmax.outputs[0].uses()[0].node
        for product, grids in (
            (_producer(softmax.inputs[0]), (("step", "middle"), ("step", "signed"))),
            (mixing, (("share", "bottom"), ("step", "signed"))),
        ):
            if product is None or product.op_type != "MatMul":
                raise LampqError(f"{softmax.name} stands between no two products", hint="time a timm ViT")
            for at, (step, zero) in enumerate(grids):
                grid = [constants[step], constants[zero]]
                quantize = ir.node("QuantizeLinear", [product.inputs[at], *grid])
                restore = ir.node("DequantizeLinear", [quantize.outputs[0], *grid])
                model.graph.insert_before(product, [quantize, restore])
                product.replace_input_with(at, restore.outputs[0])
            count += 1
    save_model(model, path)
    return count


def _scale_queries(query: ir.Value | None, factor: float) -> None:
    node = _producer(query)
    while node is not None and node.op_type != "Add":
        node = _producer(node.inputs[0])
    bias = next((v for v in node.inputs if _array(v) is not None), None) if node is not None else None
    linear = next((_producer(v) for v in node.inputs if v is not bias), None) if node is not None else None
    if bias is None or linear is None or linear.op_type != "MatMul":
        raise LampqError("the queries come from no linear layer with a bias", hint="time a timm ViT with biases")
    weight = linear.inputs[1]
    scale = weight if _array(weight) is not None else _producer(weight).inputs[1]
    for value in (bias, scale):
        array = _array(value).copy()
        array[..., : array.shape[-1] // 3] *= np.float32(factor)
        value.const_value = ir.tensor(array, name=value.name)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _array(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def compare(edits: list[Edit], runs: int, repeats: int, folder: Path) -> None:
    """Time the files of each edit in turns and print a table; times are processor times."""
    print("| file | products of attention | ms | before, ms | times as fast as before, each repetition |")
    print("|---|---|---|---|---|")
    for edit in edits:
        optimized = folder / "edited.opt.onnx"
        sessions = [_session(edit.plain, folder / "plain.opt.onnx"), _session(edit.edited, optimized)]
        image = sessions[0].get_inputs()[0]
        x = np.random.default_rng(0).normal(size=(1, *image.shape[1:])).astype(np.float32)
        before, after = (session.run(None, {image.name: x})[0] for session in sessions)
        off = float(np.linalg.norm(after - before) / np.linalg.norm(before))
        if edit.limit is not None and off > edit.limit:
            raise LampqError(f"{edit.label}: the edited file answers differently, by {off:.3f}", hint="see fold_scales")
        times = np.empty((repeats, runs, 2))
        for repeat in range(repeats):
            for run in range(-3, runs):
                for column in (0, 1) if run % 2 else (1, 0):
                    start = time.process_time()
                    sessions[column].run(None, {image.name: x})
                    if run >= 0:
                        times[repeat, run, column] = 1e3 * (time.process_time() - start)
        ratios = ", ".join(f"{np.median(part[:, 0] / part[:, 1]):.3f}" for part in times)
        ms = np.median(times, axis=(0, 1))
        print(f"| {edit.label} | {_products(optimized)} | {ms[1]:.2f} | {ms[0]:.2f} | {ratios} |")


def _session(path: Path, optimized: Path) -> ort.InferenceSession:
    options = session_options(1)
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3  # it warns that the optimized file is for this machine
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _products(optimized: Path) -> str:
    """Operators before and after each Softmax of the optimized graph, with their factor."""
    nodes = onnx.load(optimized, load_external_data=False).graph.node
    makers = {output: node for node in nodes for output in node.output}
    found: Counter[str] = Counter()
    for softmax in [node for node in nodes if node.op_type == "Softmax"]:
        readers = [node for node in nodes if softmax.output[0] in node.input]
        for node in [makers[softmax.input[0]], *readers]:
            alpha = next((f", factor {a.f:.3f}" for a in node.attribute if a.name == "alpha"), "")
            found[f"{node.op_type}{alpha}"] += 1
    return "; ".join(f"{count} {name}" for name, count in found.items())
