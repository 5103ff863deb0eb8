"""Run files in onnxruntime's QNN provider: on a Qualcomm NPU, or on the software HTP of its x86-64 wheel."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.sessions import session_options

WHEEL = "onnxruntime-qnn"
PROVIDER = "QNNExecutionProvider"

SOFTWARE_HTP = {"htp_arch": "75", "soc_model": "57"}
"""The NPU that the software HTP plays: Hexagon v75, that of the Snapdragon 8 Gen 3."""

_NODE = "_kernel_time"


@dataclass(frozen=True)
class QnnRun:
    """What one session of the provider computed, and where.

    Attributes:
        outputs: the first output for all images, joined.
        placed: provider -> operator -> number of nodes that ran there. A partition of the NPU is one node.
        dequantized: weights that a DequantizeLinear on the CPU reads at every run; its product does not run on
            integers.
    """

    outputs: npt.NDArray[np.float32]
    placed: Mapping[str, Mapping[str, int]]
    dequantized: tuple[str, ...]

    @property
    def partitions(self) -> int:
        """Number of parts of the graph that the NPU runs."""
        return sum(self.placed.get(PROVIDER, {}).values())

    @property
    def on_cpu(self) -> int:
        """Number of nodes that the CPU runs."""
        return sum(sum(own.values()) for provider, own in self.placed.items() if provider != PROVIDER)


def run_on_qnn(model: Path | bytes, images: npt.NDArray[np.float32]) -> QnnRun:
    """Run a file or a serialized model with fixed sizes on images, in pieces of its batch.

    Args:
        model: the file. Its first dimension must be a number.
        images: what its only input reads, in all its dimensions.

    Raises:
        LampqError: the provider is not installed, or it refuses the file.
    """
    where = str(model) if isinstance(model, Path) else "the model"
    with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
        options = session_options(1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_provider_for_devices(_devices(), {"backend_path": _backend(), **SOFTWARE_HTP})
        try:
            session = ort.InferenceSession(str(model) if isinstance(model, Path) else model, options)
            feed = session.get_inputs()[0]
            size = feed.shape[0]
            if not isinstance(size, int):
                raise LampqError(
                    f"{where} takes any number of images, and QNN needs a fixed one", hint="write it with --batch 1"
                )
            starts = range(0, len(images), size)
            parts = [session.run(None, {feed.name: images[start : start + size]})[0] for start in starts]
        except LampqError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise LampqError(f"QNN cannot run {where}: {str(error).strip()[:500]}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = {
        str(event["name"]).removesuffix(_NODE): (event["args"]["provider"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_NODE)
    }
    placed: dict[str, Counter[str]] = {}
    for provider, operator in nodes.values():
        placed.setdefault(provider, Counter())[_plain(operator)] += 1
    weights = tuple(
        name for name, (_, operator) in nodes.items() if operator == "DequantizeLinear" and ".weight" in name
    )
    return QnnRun(np.concatenate(parts), placed, weights)


def _plain(operator: str) -> str:
    """Return the operator of a node; a partition has a long number in its name."""
    return "partition" if operator.startswith(PROVIDER) else operator


def _devices() -> list[Any]:
    package = _package()
    known = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not known:
        ort.register_execution_provider_library(PROVIDER, package.get_library_path())
        known = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not known:
        raise LampqError(f"{WHEEL} is installed, but offers onnxruntime {ort.__version__} no device")
    return known[:1]


def _backend() -> str:
    return str(_package().get_qnn_htp_path())


def _package() -> Any:
    try:
        import onnxruntime_qnn  # noqa: PLC0415 - optional
    except ImportError as error:
        raise LampqError(
            "files for QNN run only where its onnxruntime provider is installed", hint=f"pip install {WHEEL}"
        ) from error
    return onnxruntime_qnn
