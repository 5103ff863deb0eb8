"""Rows of the runtimes that `lampq-onnx --runtime` knows: all figures come from the package itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import numpy as np

from lampq_onnx.converter import inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import compare_latency, cpu_flags, layer_errors, open_runner
from lampq_onnx.runtime.engine import Engine
from lampq_onnx.runtime.explain import explain_file
from lampq_onnx.runtime.runtimes import described
from lampq_onnx.targets import FLOAT, TARGETS, Target, target_for
from tools.bench.targets.case import FORMS, Case, Row, not_run

LAYER_IMAGES, TIMED_RUNS = 4, 15


def rows_of(case: Case, engine: Engine, name: str) -> Iterator[Row]:
    """Rows of all targets whose files an engine runs; ``name`` chooses that of this CPU."""
    try:
        words = described(engine)
    except LampqError as error:
        yield not_run(engine.runtime, "all", str(error))
        return
    here = target_for(name, platform.machine(), cpu_flags())
    for target in TARGETS.values():
        if target.runner != engine.runtime:
            continue
        if target is here:
            for weight_bits, activation_bits in FORMS:
                yield row_of(case, engine, words, target, weight_bits, activation_bits)
        elif "arm64" in here.name:
            yield not_run(words, target.name, f"this CPU is {platform.machine()}")
        elif "arm64" not in target.name:  # those are in with_arm64.py
            yield not_run(words, target.name, f"this CPU is for {here.name} (tools.bench.older_cpu hides VNNI and AMX)")


def row_of(case: Case, engine: Engine, words: str, target: Target, weight_bits: int, activation_bits: int) -> Row:
    """What an engine does with the file of one target."""
    form = f"W{weight_bits}/A{'float' if activation_bits == FLOAT else activation_bits}"
    path = case.file(target, weight_bits, activation_bits)
    layers = inspect_model(load_model(path))
    try:
        runner = open_runner(path, threads=1, engine=engine)
    except LampqError as error:
        return Row(words, target.name, form, loads=f"refused: {error}"[:200])
    answers = runner(case.images).argmax(-1)
    wanted = open_runner(case.float_file, threads=1)(case.images).argmax(-1)
    explained = explain_file(path, case.images[:8], threads=1, runs=1, engine=engine).layers
    errors = layer_errors(path, layers, case.images[:LAYER_IMAGES], threads=1, engine=engine)
    reference = open_runner(case.float_file, threads=1, engine=engine)
    speeds = []
    for batch in (1, 8):
        x = np.resize(case.images, (batch, *case.images.shape[1:]))
        latency = compare_latency(reference, runner, x, threads=1, runs=TIMED_RUNS)
        speeds.append(f"{latency.speedup:.2f} [{latency.speedup_quartiles[0]:.2f}, {latency.speedup_quartiles[1]:.2f}]")
    return Row(
        words,
        target.name,
        form,
        loads="yes",
        integer=f"{sum(layer.integer for layer in explained)} of {len(layers)}",
        worst=f"{max(errors.values()):.0e}",
        agreement=f"{100 * float(np.mean(answers == wanted)):.1f} % (n = {len(wanted)})",
        speed=", ".join(speeds),
    )
