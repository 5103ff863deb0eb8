"""Time what the later passes gain on a CPU with VNNI: GELU without a bias, rows, tokens first, the operator Attention.

    python -m tools.experiments.later_passes FOLDER --model deit_small_patch16_224 --batch 1 --runs 60

Files of one plan (W4A8, random weights) in turns on one thread, by processor time. The first has the bias of fc1 in GELU,
no `StayInRows` and no `TokensFirst`. The others have the passes that their lines name, and those of the lines before.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt

from lampq_onnx.converter.passes import BiasInGemm
from lampq_onnx.graph.refusals import Refused
from lampq_onnx.runtime.environment import describe_environment
from lampq_onnx.runtime.sessions import example_images, open_session
from lampq_onnx.targets import TARGETS
from tools.bench.runtime import float_file, quantized

VNNI = TARGETS["onnxruntime-x86-vnni"]
UNMOVED = dataclasses.replace(VNNI, tokens_first=False)

FILES = {
    "bias of fc1 in GELU": (dataclasses.replace(UNMOVED, rows=False), False),
    "+ BiasInGemm for fc1, StayInRows": (UNMOVED, False),
    "+ TokensFirst (default)": (VNNI, False),
    "--attention operator": (VNNI, True),
}
"""Label -> target, and whether attention is one operator."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    source = float_file(options.folder, options.model, None)
    sessions = []
    for number, (target, one) in enumerate(FILES.values()):
        path = options.folder / f"{options.model}.later{number}.onnx"
        rewrite = _without_fc1 if number == 0 else BiasInGemm._rewrite
        with mock.patch.object(BiasInGemm, "_rewrite", rewrite):
            quantized(source, path, 4, target=target, one_attention=one)
        sessions.append(open_session(path, threads=1))
    images = example_images(source, options.batch)
    feeds = {sessions[0].get_inputs()[0].name: images}
    times = np.empty((options.runs, len(sessions)))
    order = np.random.default_rng(0)
    for run in range(-3, options.runs):
        for column in order.permutation(len(sessions)):
            start = time.process_time()
            sessions[column].run(None, feeds)
            if run >= 0:
                times[run, column] = 1e3 * (time.process_time() - start)
    found = describe_environment("auto")
    print(f"{options.model}, batch {options.batch}, {options.runs} rounds, processor time, {found.cpu}, "
          f"onnxruntime {found.versions['onnxruntime']}\n")
    print("| file | ms | as fast as the first [quartiles] | as fast as the line before |\n|---|---|---|---|")
    for column, label in enumerate(FILES):
        before = _ratio(times[:, column - 1] / times[:, column]) if column else ""
        first = _ratio(times[:, 0] / times[:, column])
        print(f"| {label} | {np.median(times[:, column]):.2f} | {first} | {before} |")


def _ratio(ratios: npt.NDArray[np.float64]) -> str:
    """Print the median and the quartiles of ratios of the same round."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


_whole = BiasInGemm._rewrite


def _without_fc1(self, graph, name, node):
    """`BiasInGemm` as it was, with the bias of layers in front of GELU left to GELU."""
    return Refused("GELU adds the bias") if name.endswith("fc1") else _whole(self, graph, name, node)


if __name__ == "__main__":
    main()
