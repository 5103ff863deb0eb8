"""Get the graph that onnxruntime optimizes a file to, and the time of each of its operators."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.engine import Precision
from lampq_onnx.runtime.sessions import batches_for, session_options

WARM_UP = 3
EXTERNAL_BYTES = "1024"
"""Size in bytes above which constants are stored beside the optimized graph, of which only the operators are read."""


@dataclass(frozen=True)
class Profile:
    """An optimized graph and the times of its nodes.

    Attributes:
        graph: the graph after all optimizations of the session; large constants are left out.
        microseconds: node name -> median over the runs, in microseconds.
        operators: operator -> microseconds of all its nodes, most expensive first.
    """

    graph: onnx.GraphProto
    microseconds: Mapping[str, float]
    operators: Mapping[str, float]

    @property
    def total(self) -> float:
        """Time of all nodes in microseconds."""
        return sum(self.operators.values())


def profile_model(
    path: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int, precision: Precision = "auto"
) -> Profile:
    """Run a file with onnxruntime's profiler.

    Args:
        path: the file.
        images: (batch, c, h, w).
        threads: threads of one operator.
        runs: measured runs; a few more are run first as warm-up.
        precision: see `sessions.session_options`.

    Raises:
        LampqError: onnxruntime refuses the file or the images.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
        options = session_options(threads, precision=precision)
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", EXTERNAL_BYTES
        )
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(_named(path, Path(folder))), options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            pieces = batches_for(session, images, str(path))
            for _ in range(WARM_UP + runs):
                for piece in pieces:
                    session.run(None, {name: piece})
        except LampqError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(optimized, load_external_data=False).graph
    times = {key: time * len(pieces) for key, time in _medians(events, runs * len(pieces)).items()}
    operators: defaultdict[str, float] = defaultdict(float)
    for (_, operator), time in times.items():
        operators[operator] += time
    return Profile(
        graph=graph,
        microseconds={name: time for (name, _), time in times.items()},
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
    )


def _named(path: Path, folder: Path) -> Path:
    """Return the file, or a copy in ``folder`` whose nodes all have names.

    Names that the profiler makes up cannot be found in the graph.
    """
    model = onnx.load(path, load_external_data=False)
    if all(node.name for node in model.graph.node):
        return path
    model = onnx.load(path)
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.unnamed{position}"
    onnx.save(model, folder / path.name, save_as_external_data=True, location="weights")
    return folder / path.name


def _medians(events: list[dict[str, Any]], runs: int) -> dict[tuple[str, str], float]:
    """Map node name and operator to the median duration in microseconds over the last ``runs`` runs."""
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    ending = "_kernel_time"
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(ending):
            times[name.removesuffix(ending), str(event["args"]["op_name"])].append(float(event["dur"]))
    return {key: float(np.median(values[-runs:])) for key, values in times.items()}
