"""Build files with TensorRT-RTX, and read in which precision each layer runs. The builder needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.model_file import load_model

_LAYER = re.compile(
    r"^Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName.*?(?:Metadata: (?P<metadata>.*))?$",
    re.MULTILINE,
)
_TYPE = re.compile(r"Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)")
_GENERATED = "kgen"
_MISSING = "the package tensorrt-rtx-cu13-bindings, which builds engines, is not installed"


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine, as TensorRT reports it.

    Attributes:
        name: its name in the engine.
        kind: gemm, kgen (a generated kernel), runtime_fusion ...
        inputs: types of the tensors that it reads, e.g. Int8, FP8, Half or Float.
        constants: types of the constants that it reads.
        outputs: types of the tensors that it writes.
        origins: names of the nodes of the file that it computes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    origins: tuple[str, ...]

    @property
    def precision(self) -> str:
        """Types of the two operands of a product, e.g. Int8, or Int8 x Float if they differ."""
        operands = (*self.inputs[:2], *self.constants)[:2] if len(self.inputs) > 1 else self.inputs + self.constants[:1]
        return " x ".join(dict.fromkeys(operands))


@dataclass(frozen=True)
class Engine:
    """What the builder made of a file.

    Attributes:
        bytes: size of the serialized engine.
        layers: its layers.
        products: layer of the file -> precision of its product.
    """

    bytes: int
    layers: tuple[EngineLayer, ...]
    products: Mapping[str, str]


def build_engine(path: Path, *, batch: int = 8) -> Engine:
    """Parse a file and build an engine for one to ``batch`` images; neither needs a GPU.

    Args:
        path: the file.
        batch: largest number of images, for which the engine is optimized.

    Raises:
        LampqError: the package is not installed, the parser refuses the file, or no engine can be built.
    """
    trt = _package()
    report: list[str] = []
    failed: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, message: str) -> None:
            report.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                failed.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise LampqError(f"TensorRT cannot read {path}: {'; '.join(reasons)[:500]}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    least, most = (tuple(size if d < 0 else d for d in image.shape) for size in (1, batch))
    profile.set_shape(image.name, least, most, most)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise LampqError(f"TensorRT cannot build {path}: {'; '.join(failed)[:500] or 'it does not say why'}")
    layers = tuple(_read(match) for match in _LAYER.finditer("\n".join(report)))
    return Engine(int(built.nbytes), layers, _products(path, layers))


def _read(match: re.Match[str]) -> EngineLayer:
    types = {part: tuple(_TYPE.findall(match[part])) for part in ("inputs", "constants", "outputs")}
    return EngineLayer(match["name"], match["kind"], **types, origins=tuple(_ORIGIN.findall(match["metadata"] or "")))


def _products(path: Path, layers: tuple[EngineLayer, ...]) -> dict[str, str]:
    """Map each layer of the file to the precision of its product; unknown: the engine does not name its node."""
    owners = {
        node.name: node.metadata_props[UNIT_KEY]
        for node in load_model(path).graph
        if node.op_type in ("MatMul", "Gemm", "Conv") and node.name and UNIT_KEY in node.metadata_props
    }
    found: dict[str, dict[bool, set[str]]] = {name: {True: set(), False: set()} for name in owners.values()}
    for layer in layers:
        if layer.inputs and (layer.constants or len(layer.inputs) > 1):
            for name in {owners[origin] for origin in layer.origins if origin in owners}:
                found[name][layer.kind == _GENERATED].add(layer.precision)
    # Generated kernels mostly scale what a product computed; one multiplies only where no other layer does.
    return {name: ", ".join(sorted(kinds[False] or kinds[True])) or "unknown" for name, kinds in found.items()}


def _package() -> Any:
    try:
        import tensorrt_rtx_bindings as trt  # noqa: PLC0415 - optional
    except ImportError as error:
        raise LampqError(_MISSING, hint="install lampq-onnx[tensorrt]") from error
    return trt
