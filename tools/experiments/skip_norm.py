"""Measure what onnxruntime's SkipLayerNormalization would save: a sum and the norm that reads it in one node.

    python -m tools.experiments.skip_norm model.onnx --batch 1,8 --runs 60

onnxruntime fuses them on its own only if nothing but the norm reads the sum. The operator can return the sum as well, so
every pair of a file is replaced here, and both files are timed in turns on one thread. It is no standard operator.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.environment import describe_environment
from lampq_onnx.runtime.latency import compare_latency
from lampq_onnx.runtime.sessions import example_images, open_runner

CLOSE = 1e-4
"""Largest relative difference of the answers that another order of sums explains; levels may flip."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        edited = Path(room, "edited.onnx")
        pairs = fuse(options.file, edited)
        environment = describe_environment("auto")
        print(f"{pairs} pairs, {environment.cpu}, onnxruntime {environment.versions['onnxruntime']}\n")
        print("| batch | as it is, ms | fused, ms | times as fast [quartiles] | difference |\n|---|---|---|---|---|")
        for batch in map(int, options.batch.split(",")):
            images = example_images(options.file, batch)
            plain, other = (open_runner(path, threads=1) for path in (options.file, edited))
            wanted = plain(images)
            difference = float(np.linalg.norm(other(images) - wanted) / np.linalg.norm(wanted))
            times = compare_latency(plain, other, images, threads=1, runs=options.runs)
            low, high = times.speedup_quartiles
            print(
                f"| {batch} | {times.float_ms:.2f} | {times.quantized_ms:.2f} | {times.speedup:.3f} [{low:.3f}, {high:.3f}] "
                f"| {difference:.0e} |"
            )


def fuse(source: Path, path: Path) -> int:
    """Write ``source`` with every sum and the norm that reads it as one node; return how many there are.

    Raises:
        LampqError: there are none.
    """
    model = onnx.load(source)
    nodes = list(model.graph.node)
    sums = {node.output[0]: node for node in nodes if node.op_type == "Add"}
    constants = {tensor.name for tensor in model.graph.initializer}
    fused: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        added = sums.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if added is None or constants & set(added.input) or added.output[0] in fused:
            continue
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        fused[added.output[0]] = helper.make_node(
            "SkipLayerNormalization", [*added.input, *node.input[1:]], [node.output[0], "", "", added.output[0]],
            domain="com.microsoft", epsilon=epsilon, name=node.name,
        )  # fmt: skip
    if not fused:
        raise LampqError(f"{source} has no norm that reads a sum")
    gone = {node.output[0] for node in fused.values()}
    kept = []
    for node in nodes:
        if node.output[0] in fused:
            kept.append(fused[node.output[0]])
        elif node.output[0] not in gone:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    return len(fused)


if __name__ == "__main__":
    main()
