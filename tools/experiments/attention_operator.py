"""Measure what one operator for attention would save: a layer as exported, as Attention of opset 23, and as
onnxruntime's own MultiHeadAttention, which is no standard operator.

    python -m tools.experiments.attention_operator --heads 6 --tokens 197 --width 64 --threads 1,2 --batch 1,8

All read queries, keys and values of shape (batch, tokens, heads * width), and give the same result. Times are medians
of interleaved runs, and ratios within rounds.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lampq_onnx.runtime.environment import describe_environment
from lampq_onnx.runtime.sessions import session_options

OPSET = 23


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    environment = describe_environment("auto")
    print(f"{options.heads} heads, {options.tokens} tokens, {options.width} wide, {environment.cpu}")
    print(f"({', '.join(environment.cpu_flags)}), onnxruntime {environment.versions['onnxruntime']}\n")
    print("| batch | threads | operators, ms | Attention, ms | as fast as the operators [quartiles] "
          "| MultiHeadAttention, ms | as fast as the operators |")
    print("|---|---|---|---|---|---|---|")
    pairs = product(map(int, options.batch.split(",")), map(int, options.threads.split(",")))
    for batch, threads in pairs:
        times = measure(options.heads, options.tokens, options.width, batch, threads, options.runs)
        cells = [f"{np.median(times[:, 0]):.3f}"]
        for column in (1, 2):
            low, middle, high = np.percentile(times[:, 0] / times[:, column], [25, 50, 75])
            cells += [f"{np.median(times[:, column]):.3f}", f"{middle:.2f} [{low:.2f}, {high:.2f}]"]
        print(f"| {batch} | {threads} | {' | '.join(cells)} |")


def measure(heads: int, tokens: int, width: int, batch: int, threads: int, runs: int) -> np.ndarray:
    """(runs, 3): milliseconds of the operators, of Attention and of MultiHeadAttention.

    Raises:
        RuntimeError: they compute something else.
    """
    forms = (operators(), attention(heads, width), multi_head_attention(heads, width))
    sessions = [session(nodes, heads, tokens, width, threads) for nodes in forms]
    random = np.random.default_rng(0)
    feeds = {name: random.normal(size=(batch, tokens, heads * width)).astype(np.float32) for name in "qkv"}
    first, *others = [one.run(None, feeds)[0] for one in sessions]
    if not all(np.allclose(first, other, atol=1e-4) for other in others):
        raise RuntimeError("an operator and the operators it stands for compute something else")
    times = np.empty((runs, len(sessions)))
    for run in range(-5, runs):
        for column in np.roll(range(len(sessions)), run):
            start = time.perf_counter()
            sessions[column].run(None, feeds)
            if run >= 0:
                times[run, column] = 1e3 * (time.perf_counter() - start)
    return times


def operators() -> list[NodeProto]:
    """softmax(q k / sqrt(width)) v of each head, as PyTorch exports it."""
    nodes = []
    for name in "qkv":
        nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{name}.split"]))
        nodes.append(helper.make_node("Transpose", [f"{name}.split"], [f"{name}.heads"], perm=[0, 2, 1, 3]))
    nodes.append(helper.make_node("Transpose", ["k.heads"], ["k.turned"], perm=[0, 1, 3, 2]))
    nodes += [helper.make_node("Mul", [f"{name}", "scale"], [f"{name}.scaled"]) for name in ("q.heads", "k.turned")]
    nodes.append(helper.make_node("MatMul", ["q.heads.scaled", "k.turned.scaled"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["shares"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["shares", "v.heads"], ["mixed"]))
    nodes.append(helper.make_node("Transpose", ["mixed"], ["mixed.turned"], perm=[0, 2, 1, 3]))
    return [*nodes, helper.make_node("Reshape", ["mixed.turned", "joined"], ["y"])]


def attention(heads: int, width: int) -> list[NodeProto]:
    """The same in one node."""
    return [helper.make_node("Attention", list("qkv"), ["y"], q_num_heads=heads, kv_num_heads=heads, scale=width**-0.5)]


def multi_head_attention(heads: int, width: int) -> list[NodeProto]:
    """The same in onnxruntime's own operator."""
    return [
        helper.make_node(
            "MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", num_heads=heads, scale=width**-0.5
        )
    ]


def session(nodes: list[NodeProto], heads: int, tokens: int, width: int, threads: int) -> ort.InferenceSession:
    shape = ["batch", tokens, heads * width]
    constants = {
        "heads": np.array([-1, tokens, heads, width]),
        "joined": np.array([-1, tokens, heads * width]),
        "scale": np.float32(width**-0.25),
    }
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkv"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)], ir_version=11)
    options = session_options(threads)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
