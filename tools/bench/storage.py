"""Measure every storage at every bit-width on one layer: bytes, equality with plain QDQ, load time and latency.

    python tools/bench/storage.py --inputs 192 --outputs 768 --tokens 197

Latencies are medians of interleaved runs in one process, as ratios to the float MatMul.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.runtime.sessions import session_options
from lampq_onnx.targets import PACKINGS, Target

OPSET = 20


def layer(weight: np.ndarray, bias: np.ndarray) -> ir.Model:
    """y = x W + b as a float graph with one layer called fc."""
    inputs, outputs = weight.shape
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", None, inputs]))
    constants = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in (("fc.weight", weight), ("fc.bias", bias))
    ]
    product = ir.node("MatMul", [x, constants[0]], name="fc")
    add = ir.node("Add", [product.outputs[0], constants[1]])
    add.outputs[0].name = "y"
    add.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    add.outputs[0].shape = ir.Shape(["n", None, outputs])
    graph = ir.Graph(
        [x], [add.outputs[0]], nodes=[product, add], initializers=constants, opset_imports={"": OPSET}, name="layer"
    )
    return ir.Model(graph, ir_version=10)


@dataclass(frozen=True)
class Row:
    bits: int
    storage: str
    promised: float
    stored: int
    equal: bool
    load_ms: float
    session: ort.InferenceSession


def measure(weight: np.ndarray, bias: np.ndarray, bits: int, packing: str, target: Target, x: np.ndarray) -> Row:
    interval = ActivationRange(low=float(x.min()), high=float(x.max()))
    plan = BitPlan(layers={"fc": LayerPlan(weight_bits=bits, activation_bits=8, activation_range=interval)})
    conversion = convert_model(layer(weight, bias), plan, packing=packing, target=target)  # type: ignore[arg-type]
    stored = conversion.stored["fc"]
    data = ir.to_proto(conversion.model).SerializeToString()
    start = time.perf_counter()
    session = ort.InferenceSession(data, session_options(1), providers=["CPUExecutionProvider"])
    load = 1e3 * (time.perf_counter() - start)
    quantizer = ActivationQuantizer.from_range(interval.low, interval.high, 8)
    expected = quantizer.fake(x).astype(np.float64) @ conversion.parameters["fc"].weight.dequantize().T + bias
    found = session.run(None, {"x": x})[0]
    equal = bool(np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected))
    native = {"int2": 2, "int4": 4}.get(stored.storage, 8)
    width = bits if packing == "exact" else native if packing == "native" else 8
    return Row(bits, stored.storage, width * weight.size / 8, stored.bytes, equal, load, session)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=192)
    parser.add_argument("--outputs", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--target", default="auto")
    options = parser.parse_args()

    random = np.random.default_rng(0)
    weight = random.normal(size=(options.inputs, options.outputs)).astype(np.float32) * 0.05
    bias = random.normal(size=options.outputs).astype(np.float32)
    x = random.normal(size=(1, options.tokens, options.inputs)).astype(np.float32)
    target = target_here(options.target)
    plain = ort.InferenceSession(
        ir.to_proto(layer(weight, bias)).SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )
    rows = [measure(weight, bias, bits, packing, target, x) for packing in PACKINGS for bits in range(1, 9)]
    times = np.empty((options.runs, len(rows) + 1))
    for run in range(-3, options.runs):
        for column, session in enumerate([plain, *(row.session for row in rows)]):
            start = time.perf_counter()
            session.run(None, {"x": x})
            if run >= 0:
                times[run, column] = time.perf_counter() - start
    environment = describe_environment(target.name)
    print(
        f"{options.tokens} x {options.inputs} x {options.outputs}, one thread, {environment.cpu}, target {target.name}"
    )
    print(f"({', '.join(environment.cpu_flags)}), onnxruntime {environment.versions['onnxruntime']}\n")
    print("| bits | storage | bytes promised | bytes in the file | equal to QDQ | load, ms | times as fast as float |")
    print("|---|---|---|---|---|---|---|")
    for column, row in enumerate(rows, 1):
        speed = np.median(times[:, 0] / times[:, column])
        print(
            f"| {row.bits} | {row.storage} | {row.promised:.0f} | {row.stored} | {'yes' if row.equal else 'NO'} "
            f"| {row.load_ms:.1f} | {speed:.2f} |"
        )


if __name__ == "__main__":
    main()
