"""What a runtime does for this package. Another runtime is one file with such a class, and a line in `runtimes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lampq_onnx.runtime.engine import Precision
from lampq_onnx.runtime.layer_kernels import LayerKernel, Place

Images = npt.NDArray[np.float32]


class Port(Protocol):
    """An input or output of a session, as onnxruntime describes them."""

    @property
    def name(self) -> str:
        """Name in the file."""
        ...

    @property
    def shape(self) -> Sequence[Any]:
        """Sizes; those that are not fixed are texts or None."""
        ...

    @property
    def type(self) -> str:
        """Type of the tensor, for instance tensor(float)."""
        ...


class Session(Protocol):
    """A model that is ready to run; onnxruntime's own sessions are of this kind."""

    def get_inputs(self) -> Sequence[Port]:
        """Describe the inputs of the graph."""
        ...

    def get_outputs(self) -> Sequence[Port]:
        """Describe the outputs of the graph."""
        ...

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]) -> Sequence[Any]:
        """Run the model, and return the outputs of these names, or all."""
        ...


@dataclass(frozen=True)
class Kernels:
    """What a runtime executes for a file.

    Attributes:
        layers: one entry for each place.
        operators: operator of the executed graph -> microseconds of all its nodes, most expensive first.
    """

    layers: tuple[LayerKernel, ...]
    operators: Mapping[str, float]


class Runtime(Protocol):
    """A runtime on this machine. All its methods raise LampqError if the runtime is missing or refuses a file."""

    words: str
    """Its name in texts, e.g. OpenVINO."""

    def version(self) -> str:
        """Return the installed version."""
        ...

    def arithmetic(self, precision: Precision) -> str:
        """Say with which numbers the parts of a file that are not integers are computed."""
        ...

    def open(
        self, model: Path | bytes, *, threads: int, precision: Precision, optimize: bool, lean: bool = False
    ) -> Session:
        """Load a file or a serialized model.

        Args:
            model: the file, or its bytes.
            threads: threads of one operator.
            precision: see `Engine`.
            optimize: False: plain arithmetic of the operators of the file, without kernels that fuse them.
            lean: keep no memory between two runs.
        """
        ...

    def kernels(
        self, path: Path, places: Sequence[Place], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> Kernels:
        """Profile a file, and find what it executes for each layer."""
        ...

    def operators(
        self, paths: Sequence[Path], images: Images, *, threads: int, precision: Precision, runs: int
    ) -> list[Mapping[str, tuple[float, int]]]:
        """Profile files in turns; for each, operator -> median milliseconds of a run, and number of nodes."""
        ...
