"""Time by operator type, from onnxruntime's profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lampq_onnx.artifacts.details import OperatorTime, OperatorTimes
from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.sessions import batches_for, session_options

WARM_UP = 3


def operator_times(
    reference: Path, quantized: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int
) -> OperatorTimes:
    """Profile both files alternately on the same batch.

    The times include the cost of the profiler, some microseconds per node.

    Args:
        reference: the float file.
        quantized: the quantized file.
        images: (batch, c, h, w).
        threads: threads of the sessions.
        runs: measured rounds; a few more are run first as warm-up.

    Raises:
        LampqError: onnxruntime refuses a file.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        sessions = [_profiled(path, Path(room) / str(i), threads) for i, path in enumerate((reference, quantized))]
        files = (reference, quantized)
        batches = [batches_for(session, images, str(path)) for session, path in zip(sessions, files, strict=True)]
        for _ in range(WARM_UP + runs):
            for session, pieces, path in zip(sessions, batches, files, strict=True):
                _run(session, pieces, path)
        first, second = (
            _by_operator(Path(session.end_profiling()), WARM_UP + runs, len(pieces))
            for session, pieces in zip(sessions, batches, strict=True)
        )
    rows = [
        OperatorTime(
            operator=name,
            float_ms=first[name][0],
            quantized_ms=second[name][0],
            float_nodes=first[name][1],
            quantized_nodes=second[name][1],
        )
        for name in {**first, **second}
    ]
    rows.sort(key=lambda row: -max(row.float_ms, row.quantized_ms))
    return OperatorTimes(threads=threads, batch=len(images), runs=runs, operators=tuple(rows))


def _profiled(path: Path, prefix: Path, threads: int) -> Any:
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise LampqError(f"onnxruntime cannot load {path}: {str(error).strip()[:500]}") from error


def _run(session: Any, pieces: list[npt.NDArray[np.float32]], path: Path) -> None:
    try:
        for piece in pieces:
            session.run(None, {session.get_inputs()[0].name: piece})
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error


def _by_operator(profile: Path, runs: int, pieces: int = 1) -> dict[str, tuple[float, int]]:
    """Map each operator to its median milliseconds per run and its number of nodes; the warm-up runs are left out.

    Args:
        profile: file that onnxruntime wrote.
        runs: number of runs in it.
        pieces: batches of each run.
    """
    events = [e for e in json.loads(profile.read_text(encoding="utf-8")) if e.get("cat") == "Node"]
    nodes = len(events) // runs
    if nodes == 0 or len(events) % runs:
        raise LampqError(f"onnxruntime's profile holds {len(events)} node times for {runs} runs, not the same for each")
    times: dict[str, list[float]] = defaultdict(lambda: [0.0] * runs)
    counts: dict[str, int] = defaultdict(int)
    for position, event in enumerate(events):
        run = position // nodes
        name = event["args"]["op_name"]
        times[name][run] += event["dur"] / 1e3
        counts[name] += run == 0
    found = {name: (round(float(np.median(own[WARM_UP:])), 6), counts[name] // pieces) for name, own in times.items()}
    return defaultdict(lambda: (0.0, 0), found)
