"""The runtimes that run, check and time files here."""

from __future__ import annotations

from importlib import import_module

from lampq_onnx.runtime.engine import Engine
from lampq_onnx.runtime.protocol import Runtime
from lampq_onnx.targets import RUNNERS


def runtime_of(name: str) -> Runtime:
    """Return a runtime. It is `RUNTIME` of the module ``with_<name>``, which is loaded when it is used.

    Args:
        name: one of `targets.RUNNERS`.
    """
    if name not in RUNNERS:
        raise KeyError(name)
    found: Runtime = import_module(f"lampq_onnx.runtime.with_{name}").RUNTIME
    return found


def require_runtime(engine: Engine) -> None:
    """Refuse an engine whose runtime is not installed, before anything is measured.

    Raises:
        LampqError: it is missing; says how to install it.
    """
    runtime_of(engine.runtime).version()


def described(engine: Engine) -> str:
    """Say which runtime an engine is, e.g. OpenVINO 2026.4.1 (bfloat16 beside integers, its default on this CPU)."""
    runtime = runtime_of(engine.runtime)
    arithmetic, comma, rest = runtime.arithmetic(engine.precision).partition(", ")
    return f"{runtime.words} {runtime.version()} ({arithmetic} beside integers{comma}{rest})"


def in_float32(engine: Engine) -> bool:
    """Whether the parts of a file that are not integers are computed in float32."""
    return runtime_of(engine.runtime).arithmetic(engine.precision).startswith("float32")
