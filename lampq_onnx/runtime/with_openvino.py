"""OpenVINO behind the protocol of `protocol`. It is an optional package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.engine import Precision
from lampq_onnx.runtime.layer_kernels import Place
from lampq_onnx.runtime.openvino_kernels import Executed, layer_kernels
from lampq_onnx.runtime.protocol import Images, Kernels, Session
from lampq_onnx.runtime.sessions import batches_for

WARM_UP = 3

_WORDS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "f64": "tensor(double)"}


@dataclass(frozen=True)
class _Port:
    """An input or output, see `protocol.Port`."""

    name: str
    shape: tuple[int | None, ...]
    type: str


class _Session:
    """A compiled model with one request, see `protocol.Session`."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self._inputs = [_port(port) for port in compiled.inputs]
        self._outputs = [_port(port) for port in compiled.outputs]

    def get_inputs(self) -> Sequence[_Port]:
        """Describe the inputs of the graph."""
        return self._inputs

    def get_outputs(self) -> Sequence[_Port]:
        """Describe the outputs of the graph."""
        return self._outputs

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the model, and return copies of the outputs of these names, or all."""
        found = self.request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        wanted = [port.name for port in self._outputs] if names is None else names
        return [np.array(found[name]) for name in wanted]


class OpenVino:
    """OpenVINO on this CPU.

    Its own defaults stay as they are, apart from the number of threads and, if one is asked for, the precision
    (INFERENCE_PRECISION_HINT). So weights that it takes for compressed ones meet inputs that it rounds itself
    (DYNAMIC_QUANTIZATION_GROUP_SIZE), as on the machine of a user.
    """

    words = "OpenVINO"

    def version(self) -> str:
        """Return the installed version."""
        return str(_openvino().__version__).split("-", maxsplit=1)[0]

    def arithmetic(self, precision: Precision) -> str:
        """Say with which numbers the parts of a file that are not integers are computed."""
        if precision != "auto":
            return _WORDS[precision]
        name = _openvino().Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
        return f"{_WORDS.get(name, name)}, its default on this CPU"

    def open(
        self,
        model: Path | bytes,
        *,
        threads: int,
        precision: Precision,
        optimize: bool,
        lean: bool = False,  # noqa: ARG002 -- OpenVINO has no pool that could be left out
    ) -> Session:
        """Load a file or a serialized model; see `Runtime`."""
        if not optimize:
            raise ValueError("OpenVINO has no mode without optimizations; onnxruntime computes the reference")
        return self._open(model, threads, precision)

    def kernels(
        self, path: Path, places: Sequence[Place], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> Kernels:
        """Profile a file, and find what it executes for each layer; see `Runtime`."""
        session = self._open(path, threads, precision, profiled=True)
        pieces = batches_for(session, images, str(path))
        samples: dict[str, list[float]] = defaultdict(lambda: [0.0] * runs)
        for run in range(-WARM_UP, runs):
            for name, _, microseconds in _profile(session, pieces, path):
                if run >= 0:
                    samples[name][run] += microseconds
        nodes = [
            Executed(
                name=node.get_friendly_name(),
                sources=tuple(_fact(node, "originalLayersNames").split(",")),
                operator=_fact(node, "layerType"),
                kernel=_fact(node, "primitiveType"),
                precision=_fact(node, "runtimePrecision"),
                microseconds=float(np.median(samples.get(node.get_friendly_name(), [0.0]))),
            )
            for node in session.compiled.get_runtime_model().get_ordered_ops()
        ]
        operators: defaultdict[str, float] = defaultdict(float)
        for executed in nodes:
            if executed.microseconds:
                operators[executed.operator] += executed.microseconds
        return Kernels(
            layers=tuple(layer_kernels(places, nodes)),
            operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        )

    def operators(
        self, paths: Sequence[Path], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> list[Mapping[str, tuple[float, int]]]:
        """Profile files in turns; see `Runtime`."""
        sessions = [self._open(path, threads, precision, profiled=True) for path in paths]
        batches = [batches_for(session, images, str(path)) for session, path in zip(sessions, paths, strict=True)]
        times: list[defaultdict[str, list[float]]] = [defaultdict(lambda: [0.0] * runs) for _ in paths]
        nodes: list[defaultdict[str, set[str]]] = [defaultdict(set) for _ in paths]
        for run in range(-WARM_UP, runs):
            for at, (session, pieces) in enumerate(zip(sessions, batches, strict=True)):
                for name, operator, microseconds in _profile(session, pieces, paths[at]):
                    if run >= 0:
                        times[at][operator][run] += microseconds / 1e3
                        nodes[at][operator].add(name)
        return [
            {name: (round(float(np.median(own)), 6), len(nodes[at][name])) for name, own in times[at].items()}
            for at in range(len(paths))
        ]

    def _open(self, model: Path | bytes, threads: int, precision: Precision, *, profiled: bool = False) -> _Session:
        core = _openvino().Core()
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERF_COUNT": profiled}
        if precision != "auto":
            options["INFERENCE_PRECISION_HINT"] = precision
        where = str(model) if isinstance(model, Path) else "the model"
        try:
            network = core.read_model(str(model)) if isinstance(model, Path) else core.read_model(model, b"")
            return _Session(core.compile_model(network, "CPU", options))
        except Exception as error:  # openvino's exceptions have no common public base
            raise LampqError(f"OpenVINO cannot load {where}: {str(error).strip()[:500]}") from error


RUNTIME = OpenVino()


def _openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415
    except ImportError as error:
        raise LampqError(
            "the runtime OpenVINO is not installed",
            hint="install lampq-onnx[openvino], or give --runtime onnxruntime",
        ) from error
    return openvino


def _port(port: Any) -> _Port:
    shape = tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return _Port(port.get_any_name(), shape, _TYPES.get(kind, f"tensor({kind})"))


def _fact(node: Any, key: str) -> str:
    facts = node.get_rt_info()
    return str(facts[key].astype(str)) if key in facts else ""


def _profile(session: _Session, pieces: Sequence[Images], path: Path) -> list[tuple[str, str, float]]:
    """Run all pieces once; return name, operator and microseconds of each executed node of each piece."""
    name = session.get_inputs()[0].name
    found = []
    for piece in pieces:
        try:
            session.run(None, {name: piece})
        except Exception as error:  # openvino's exceptions have no common public base
            raise LampqError(f"OpenVINO cannot run {path}: {str(error).strip()[:500]}") from error
        for node in session.request.get_profiling_info():
            microseconds = node.real_time.total_seconds() * 1e6
            if microseconds > 0:
                found.append((node.node_name, node.node_type, microseconds))
    return found
