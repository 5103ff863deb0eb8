"""Measure the time of a layer whose input does not fit in 8 bits, and the time of scaling the channels of an input.

    python tools/bench/wide_inputs.py --inputs 384 --outputs 1152 --tokens 197

The forms run in turns in one process, one thread. Times, and the ratios to the float MatMul of the same round, are
medians with quartiles. The last columns say which kernel onnxruntime chose, and how far its result is from the QDQ
arithmetic of the file in float64.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.runtime.sessions import session_options
from lampq_onnx.targets import Target

OPSET = 20
WARM_UP = 3
FLOAT_BITS = 32
PERCENTILES = (50, 25, 75)

KERNELS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulNBits", "Gemm", "MatMul")
"""Operators that a layer's product may run as, after onnxruntime's optimizations."""


def layer(weight: np.ndarray, bias: np.ndarray, factors: np.ndarray | None = None) -> ir.Model:
    """y = (x * factors) W + b as a float graph with one layer called fc; without factors y = x W + b."""
    inputs, outputs = weight.shape
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", None, inputs]))
    arrays = {"fc.weight": weight, "fc.bias": bias} | ({} if factors is None else {"factors": factors})
    constants = {name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()}
    nodes, value = [], x
    if factors is not None:
        nodes.append(ir.node("Mul", [x, constants["factors"]], name="scale"))
        value = nodes[-1].outputs[0]
    nodes.append(ir.node("MatMul", [value, constants["fc.weight"]], name="fc"))
    nodes.append(ir.node("Add", [nodes[-1].outputs[0], constants["fc.bias"]], name="add"))
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", None, outputs])
    graph = ir.Graph([x], [y], nodes=nodes, initializers=list(constants.values()), opset_imports={"": OPSET})
    graph.name = "layer"
    return ir.Model(graph, ir_version=10)


@dataclass(frozen=True)
class Form:
    """One form of the layer.

    Attributes:
        bytes: of the packed weights.
        error: relative L2 distance to the file's arithmetic in float64.
    """

    name: str
    session: ort.InferenceSession
    kernel: str
    bytes: int
    error: float


def open_form(name: str, model: ir.Model, x: np.ndarray, expected: np.ndarray, stored: int) -> Form:
    with tempfile.TemporaryDirectory() as folder:
        settings = session_options(1)
        settings.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        data = ir.to_proto(model).SerializeToString()
        ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        operators = [node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node]
    session = ort.InferenceSession(data, session_options(1), providers=["CPUExecutionProvider"])
    kernel = next((kind for kind in KERNELS if kind in operators), ", ".join(operators))
    found = session.run(None, {"x": x})[0]
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return Form(name, session, kernel, stored, error)


def quantized_form(
    weight: np.ndarray, bias: np.ndarray, widths: tuple[int, int], target: Target, x: np.ndarray, *, scaled: bool
) -> Form:
    """The layer with ``widths`` of weights and inputs; ``scaled`` multiplies each input channel by a constant first."""
    weight_bits, activation_bits = widths
    steps = np.random.default_rng(1).integers(-2, 3, len(weight))
    # Powers of two: multiplying by them and dividing the weights rounds nothing.
    factors = np.ldexp(np.ones(len(weight), np.float32), steps) if scaled else None
    values = x if factors is None else x * factors
    interval = ActivationRange(low=float(values.min()), high=float(values.max()))
    plan = LayerPlan(weight_bits=weight_bits, activation_bits=activation_bits, activation_range=interval)
    matrix = weight if factors is None else weight / factors[:, None]
    conversion = convert_model(layer(matrix, bias, factors), BitPlan(layers={"fc": plan}), target=target)
    numbers = conversion.parameters["fc"]
    rounded = values if numbers.activation is None else numbers.activation.fake(values)
    expected = rounded.astype(np.float64) @ numbers.weight.dequantize().T + bias
    inputs = "float" if activation_bits == FLOAT_BITS else f"{activation_bits}-bit"
    name = f"{weight_bits}-bit weights, {inputs} inputs{', channels scaled' if scaled else ''}"
    return open_form(name, conversion.model, x, expected, conversion.stored["fc"].bytes)


def measure(forms: list[Form], x: np.ndarray, runs: int) -> np.ndarray:
    """Return milliseconds, shape (runs, forms)."""
    times = np.empty((runs, len(forms)))
    for run in range(-WARM_UP, runs):
        for column in np.roll(np.arange(len(forms)), run):
            start = time.perf_counter()
            forms[column].session.run(None, {"x": x})
            if run >= 0:
                times[run, column] = 1e3 * (time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=384)
    parser.add_argument("--outputs", type=int, default=1152)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--bits", type=int, default=4, help="width of the weights")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--target", default="auto")
    options = parser.parse_args()

    random = np.random.default_rng(0)
    weight = random.normal(size=(options.inputs, options.outputs)).astype(np.float32) * 0.05
    bias = random.normal(size=options.outputs).astype(np.float32)
    x = random.normal(size=(1, options.tokens, options.inputs)).astype(np.float32)
    target = target_here(options.target)
    plain = x.astype(np.float64) @ weight + bias
    forms = [open_form("float", layer(weight, bias), x, plain, weight.nbytes)]
    for activation_bits, scaled in ((8, False), (8, True), (16, False), (FLOAT_BITS, False)):
        forms.append(quantized_form(weight, bias, (options.bits, activation_bits), target, x, scaled=scaled))
    times = measure(forms, x, options.runs)

    environment = describe_environment(target.name)
    print(
        f"{options.tokens} x {options.inputs} x {options.outputs}, one thread, {environment.cpu}, target {target.name}"
    )
    print(f"({', '.join(environment.cpu_flags)}), onnxruntime {environment.versions['onnxruntime']}\n")
    print("| form | bytes | ms | times as fast as float | kernel | error |")
    print("|---|---|---|---|---|---|")
    for column, form in enumerate(forms):
        middle, low, high = np.percentile(times[:, column], PERCENTILES)
        speed, slow, fast = np.percentile(times[:, 0] / times[:, column], PERCENTILES)
        print(
            f"| {form.name} | {form.bytes} | {middle:.2f} ({low:.2f}-{high:.2f}) | {speed:.2f} ({slow:.2f}-{fast:.2f}) "
            f"| {form.kernel} | {form.error:.0e} |"
        )


if __name__ == "__main__":
    main()
