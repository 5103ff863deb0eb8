"""What onnxruntime made of a file, and how long each of its operators takes."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.sessions import session_options

WARM_UP = 3
EXTERNAL_BYTES = "1024"
"""Constants above this go beside the optimized graph, which is read for its operators only."""


@dataclass(frozen=True)
class Profile:
    """An optimized graph and the times of its nodes.

    Attributes:
        graph: after all optimizations of the session; large constants are left out.
        microseconds: node name -> median over the runs.
        total: microseconds of all nodes.
    """

    graph: onnx.GraphProto
    microseconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Sum over the nodes."""
        return sum(self.microseconds.values())

    def by_operator(self) -> dict[str, float]:
        """Operator -> microseconds, most expensive first."""
        found: defaultdict[str, float] = defaultdict(float)
        for node in self.graph.node:
            found[node.op_type] += self.microseconds.get(node.name, 0.0)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def profile_model(path: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int) -> Profile:
    """Run a file with onnxruntime's profiler.

    Args:
        path: the file.
        images: (batch, c, h, w).
        threads: of one operator.
        runs: those that count; a few more warm up.

    Raises:
        LampqError: onnxruntime refuses the file or the images.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
        options = session_options(threads)
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", EXTERNAL_BYTES
        )
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            for _ in range(WARM_UP + runs):
                session.run(None, {name: images})
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(optimized, load_external_data=False).graph
    return Profile(graph=graph, microseconds=_medians(events, runs))


def _medians(events: list[dict[str, object]], runs: int) -> dict[str, float]:
    """Node name -> median duration over the last ``runs`` runs."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    ending = "_kernel_time"
    for event in events:
        name, duration = str(event.get("name", "")), event.get("dur")
        if event.get("cat") == "Node" and name.endswith(ending) and isinstance(duration, int | float):
            times[name.removesuffix(ending)].append(float(duration))
    return {name: float(np.median(values[-runs:])) for name, values in times.items()}
