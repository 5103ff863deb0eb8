"""Measure what 8-bit attention products would save: one layer of attention in float and in two quantized forms.

    python -m tools.experiments.attention --heads 6 --tokens 197 --width 64

Queries and keys are uint8 and int8, probabilities uint8 with a step of 1/255, values int8, one scale for each tensor.
Times are medians of interleaved runs, and ratios within rounds. Accuracy is not measured here.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lampq_onnx.runtime.environment import describe_environment
from lampq_onnx.runtime.sessions import session_options
from tools.bench.attention_edits import CONSTANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    shapes = {
        "q": (options.heads, options.tokens, options.width),
        "k": (options.heads, options.width, options.tokens),
        "v": (options.heads, options.tokens, options.width),
    }
    forms = {
        "float": attention(shapes, scores=False, mixing=False),
        "int8 probabilities and values": attention(shapes, scores=False, mixing=True),
        "int8 both products": attention(shapes, scores=True, mixing=True),
    }
    random = np.random.default_rng(0)
    feeds = {name: random.normal(size=(1, *shape)).astype(np.float32) for name, shape in shapes.items()}
    times = np.empty((options.runs, len(forms)))
    for run in range(-5, options.runs):
        for column, session in enumerate(forms.values()):
            start = time.perf_counter()
            session.run(None, feeds)
            if run >= 0:
                times[run, column] = 1e3 * (time.perf_counter() - start)
    environment = describe_environment("auto")
    print(f"{options.heads} heads, {options.tokens} tokens, {options.width} wide, one thread, {environment.cpu}")
    print(f"({', '.join(environment.cpu_flags)}), onnxruntime {environment.versions['onnxruntime']}\n")
    print("| form | ms | as fast as float [quartiles] |")
    print("|---|---|---|")
    for column, name in enumerate(forms):
        low, middle, high = np.percentile(times[:, 0] / times[:, column], [25, 50, 75])
        print(f"| {name} | {np.median(times[:, column]):.3f} | {middle:.2f} [{low:.2f}, {high:.2f}] |")


def attention(shapes: dict[str, tuple[int, int, int]], *, scores: bool, mixing: bool) -> ort.InferenceSession:
    """softmax(q k) v, with the first and the second product quantized or not."""
    nodes: list[NodeProto] = []

    def rounded(name: str, scale: str, zero: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.d"]))
        return f"{name}.d"

    left, right = (rounded("q", "step", "middle"), rounded("k", "step", "signed")) if scores else ("q", "k")
    nodes.append(helper.make_node("MatMul", [left, right], ["s"]))
    nodes.append(helper.make_node("Softmax", ["s"], ["p"]))
    left, right = (rounded("p", "share", "bottom"), rounded("v", "step", "signed")) if mixing else ("p", "v")
    nodes.append(helper.make_node("MatMul", [left, right], ["y"]))
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", *shape]) for n, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    read = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in CONSTANTS.items() if n in read]
    graph = helper.make_graph(nodes, "attention", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
