"""Time by operator type of two files, by the runtime's own profiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.details import OperatorTime, OperatorTimes
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine
from lampq_onnx.runtime.runtimes import runtime_of


def operator_times(
    reference: Path,
    quantized: Path,
    images: npt.NDArray[np.float32],
    *,
    threads: int,
    runs: int,
    engine: Engine = ONNXRUNTIME,
) -> OperatorTimes:
    """Profile both files alternately on the same batch.

    The times include the cost of the profiler, some microseconds per node.

    Args:
        reference: the float file.
        quantized: the quantized file.
        images: (batch, c, h, w).
        threads: threads of the sessions.
        runs: measured rounds; a few more are run first as warm-up.
        engine: what runs both files.

    Raises:
        LampqError: the runtime refuses a file.
    """
    first, second = runtime_of(engine.runtime).operators(
        (reference, quantized), images, threads=threads, precision=engine.precision, runs=runs
    )
    none = (0.0, 0)
    rows = [
        OperatorTime(
            operator=name,
            float_ms=first.get(name, none)[0],
            quantized_ms=second.get(name, none)[0],
            float_nodes=first.get(name, none)[1],
            quantized_nodes=second.get(name, none)[1],
        )
        for name in {**first, **second}
    ]
    rows.sort(key=lambda row: -max(row.float_ms, row.quantized_ms))
    return OperatorTimes(threads=threads, batch=len(images), runs=runs, operators=tuple(rows))
