"""Time one linear layer on kernels for 8 and for 4 bits, for several numbers of tokens.

    python -m tools.bench.narrow_kernels --inputs 384 --outputs 1536 --tokens 1,8,32,197,1576

int8 is our form: uint8 inputs, int8 weights, MatMulIntegerToFloat. 4 and 2 bits are onnxruntime's MatMulNBits with
accuracy_level 4, which rounds inputs to 8 bits itself, in blocks of 128. Weights are random: only times count. Times
are medians of interleaved runs in microseconds, one thread; ratios are medians within rounds, with quartiles.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lampq_onnx.runtime.environment import describe_environment
from lampq_onnx.runtime.sessions import session_options

BLOCK = 128
"""Inputs that share a scale in MatMulNBits."""


def int8_layer(inputs: int, outputs: int) -> ModelProto:
    """Make a layer of 8-bit weights and inputs, in QDQ form."""
    random = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "weight": random.integers(-127, 128, (inputs, outputs), np.int8),
        "steps": random.random(outputs, np.float32) * np.float32(0.001),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "steps"], ["w"], axis=1),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return _model(nodes, constants, inputs, outputs)


def narrow_layer(inputs: int, outputs: int, bits: int) -> ModelProto:
    """Make a layer of MatMulNBits."""
    random = np.random.default_rng(0)
    blocks = -(-inputs // BLOCK)
    constants = {
        "weight": random.integers(0, 256, (outputs, blocks, BLOCK * bits // 8), np.uint8),
        "steps": random.random(outputs * blocks, np.float32) * np.float32(0.01),
    }
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "weight", "steps"], ["y"], domain="com.microsoft", **attributes)
    return _model([node], constants, inputs, outputs)


def _model(nodes: list, constants: dict[str, np.ndarray], inputs: int, outputs: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", outputs])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def measure(layers: list[ModelProto], tokens: int, inputs: int, runs: int) -> np.ndarray:
    """Return microseconds, (runs, layers)."""
    sessions = [
        ort.InferenceSession(layer.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
        for layer in layers
    ]
    x = np.random.default_rng(1).normal(size=(1, tokens, inputs)).astype(np.float32)
    times = np.empty((runs, len(layers)))
    for run in range(-5, runs):
        for column in range(len(layers)) if run % 2 else reversed(range(len(layers))):
            start = time.perf_counter()
            sessions[column].run(None, {"x": x})
            if run >= 0:
                times[run, column] = 1e6 * (time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=384)
    parser.add_argument("--outputs", type=int, default=1536)
    parser.add_argument("--tokens", default="1,8,32,197,1576")
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    here = describe_environment("any")
    print(
        f"{options.inputs} x {options.outputs}, {options.runs} rounds, {here.cpu} ({', '.join(here.cpu_flags)}), ",
        end="",
    )
    print(f"onnxruntime {here.versions['onnxruntime']}\n")
    print("| tokens | int8, us | 4 bits, us | as fast as int8 | 2 bits, us | as fast as int8 |")
    print("|---|---|---|---|---|---|")
    layers = [int8_layer(options.inputs, options.outputs)]
    layers += [narrow_layer(options.inputs, options.outputs, bits) for bits in (4, 2)]
    for tokens in map(int, options.tokens.split(",")):
        times = measure(layers, tokens, options.inputs, max(5, options.runs * 32 // max(tokens, 32)))
        middle = np.median(times, axis=0)
        cells = [f"{middle[0]:.0f}"]
        for column in (1, 2):
            low, ratio, high = np.percentile(times[:, 0] / times[:, column], [25, 50, 75])
            cells += [f"{middle[column]:.0f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"]
        print(f"| {tokens} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
