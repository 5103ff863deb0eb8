"""onnxruntime behind the protocol of `protocol`."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lampq_onnx.errors import LampqError, is_out_of_memory
from lampq_onnx.runtime.engine import Precision
from lampq_onnx.runtime.layer_kernels import Place
from lampq_onnx.runtime.onnxruntime_kernels import layer_kernels
from lampq_onnx.runtime.profile import profile_model
from lampq_onnx.runtime.protocol import Images, Kernels, Session
from lampq_onnx.runtime.sessions import batches_for, session_options

WARM_UP = 3

BFLOAT16 = "tensor(bfloat16)"
"""The type as onnxruntime's messages name it."""

BFLOAT16_HINT = "export the model in float32, with model.float(): onnxruntime has hardly any bfloat16 on processors"


class OnnxRuntime:
    """onnxruntime on this CPU."""

    words = "onnxruntime"

    def version(self) -> str:
        """Return the installed version."""
        return str(ort.__version__)

    def arithmetic(self, precision: Precision) -> str:
        """Say with which numbers the parts of a file that are not integers are computed."""
        return {"auto": "float32", "f32": "float32"}[precision]

    def open(
        self, model: Path | bytes, *, threads: int, precision: Precision, optimize: bool, lean: bool = False
    ) -> Session:
        """Load a file or a serialized model; see `Runtime`."""
        source = str(model) if isinstance(model, Path) else model
        options = session_options(threads, optimize=optimize, precision=precision, lean=lean)
        try:
            session: Session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common public base
            if is_out_of_memory(error):
                raise
            where = str(model) if isinstance(model, Path) else "the model"
            raise LampqError(
                f"onnxruntime cannot load {where}: {str(error).strip()[:500]}",
                hint=BFLOAT16_HINT if BFLOAT16 in str(error) else "",
            ) from error
        return session

    def kernels(
        self, path: Path, places: Sequence[Place], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> Kernels:
        """Profile a file, and find what it executes for each layer; see `Runtime`."""
        profile = profile_model(path, images, threads=threads, precision=precision, runs=runs)
        return Kernels(tuple(layer_kernels(places, profile)), profile.operators)

    def operators(
        self, paths: Sequence[Path], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> list[Mapping[str, tuple[float, int]]]:
        """Profile files in turns; see `Runtime`."""
        with tempfile.TemporaryDirectory(prefix="lampq-") as room:
            sessions = [_profiled(path, Path(room) / str(i), threads, precision) for i, path in enumerate(paths)]
            batches = [batches_for(session, images, str(path)) for session, path in zip(sessions, paths, strict=True)]
            for _ in range(WARM_UP + runs):
                for session, pieces, path in zip(sessions, batches, paths, strict=True):
                    _run(session, pieces, path)
            return [
                by_operator(Path(session.end_profiling()), WARM_UP + runs, len(pieces))
                for session, pieces in zip(sessions, batches, strict=True)
            ]


RUNTIME = OnnxRuntime()


def _profiled(path: Path, prefix: Path, threads: int, precision: Precision) -> Any:
    options = session_options(threads, precision=precision)
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if is_out_of_memory(error):
            raise
        raise LampqError(f"onnxruntime cannot load {path}: {str(error).strip()[:500]}") from error


def _run(session: Any, pieces: list[Images], path: Path) -> None:
    try:
        for piece in pieces:
            session.run(None, {session.get_inputs()[0].name: piece})
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if is_out_of_memory(error):
            raise
        raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error


def by_operator(profile: Path, runs: int, pieces: int = 1) -> dict[str, tuple[float, int]]:
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
    return {name: (round(float(np.median(own[WARM_UP:])), 6), counts[name] // pieces) for name, own in times.items()}
