"""Which runtime runs a file here, and with which arithmetic beside its integer kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lampq_onnx.errors import UsageError
from lampq_onnx.targets import TARGETS

Precision = Literal["auto", "f32", "bf16", "f16"]


@dataclass(frozen=True)
class Engine:
    """A runtime and its arithmetic.

    Attributes:
        runtime: name of the runtime, see `targets.RUNNERS`.
        precision: arithmetic of what does not run in integers; auto: what the runtime does by default on this CPU.
    """

    runtime: str = "onnxruntime"
    precision: Precision = "auto"

    def in_float32(self) -> Engine:
        """Return the engine with float32 in the place of shorter floats.

        onnxruntime uses none on a CPU by itself, and stays as it is: what its kernels round, they round for users too.
        """
        return self if self.runtime == "onnxruntime" else replace(self, precision="f32")


ONNXRUNTIME = Engine()


def engine_for(runtime: str, precision: Precision, target: str) -> Engine:
    """Return the engine that options ask for.

    Files that another device runs, with inputs in float, are checked here in float32: onnxruntime's own choice on a CPU
    would round these inputs to 8 bits.

    Args:
        runtime: name of the runtime; auto: that of the target, or onnxruntime if nothing runs the target's files here.
        precision: see `Engine`.
        target: name of the target that the file is made for; any text for files of other tools.

    Raises:
        UsageError: onnxruntime is asked for another arithmetic than float32.
    """
    known = TARGETS.get(target)
    own = known.runner if known is not None else None
    found = (own or ONNXRUNTIME.runtime) if runtime == "auto" else runtime
    if found == ONNXRUNTIME.runtime and precision not in ("auto", "f32"):
        raise UsageError(
            f"onnxruntime computes in float32 on CPUs, not in {precision}",
            hint="leave out --inference-precision, or give --runtime openvino",
        )
    if precision == "auto" and found == ONNXRUNTIME.runtime and known is not None and known.block is not None:
        return Engine(found, "f32")
    return Engine(found, precision)
