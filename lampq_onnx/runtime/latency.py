"""Time two files side by side."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.report import Latency
from lampq_onnx.runtime.sessions import Runner

WARM_UP = 3


def compare_latency(
    reference: Runner, quantized: Runner, images: npt.NDArray[np.float32], *, threads: int, runs: int
) -> Latency:
    """Time both models alternately on the same batch, so that drifts of the machine affect both.

    Args:
        reference: the float model.
        quantized: the quantized model.
        images: (batch, c, h, w).
        threads: threads of the sessions, stored in the result.
        runs: measured rounds; a few more are run first as warm-up.
    """
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + runs):
        order = (0, 1) if turn % 2 else (1, 0)
        for which in order:
            runner = (reference, quantized)[which]
            start = time.perf_counter()
            runner(images)
            if turn >= WARM_UP:
                samples[which].append(1e3 * (time.perf_counter() - start))
    ratios = np.array(samples[0]) / np.array(samples[1])
    low, middle, high = (float(q) for q in np.percentile(ratios, [25, 50, 75]))
    return Latency(
        float_ms=float(np.median(samples[0])),
        quantized_ms=float(np.median(samples[1])),
        speedup=middle,
        speedup_quartiles=(low, high),
        threads=threads,
        batch=len(images),
        runs=runs,
        float_samples_ms=tuple(round(s, 4) for s in samples[0]),
        quantized_samples_ms=tuple(round(s, 4) for s in samples[1]),
    )
