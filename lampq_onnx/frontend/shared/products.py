"""Matrix products of layers, computed by oneDNN where PyTorch's default library is slow.

PyTorch multiplies float32 matrices on x86 with MKL, which runs kernels for AVX2 on processors that are not Intel's.
oneDNN is in PyTorch as well, and its kernels for AVX-512 run on all processors: about twice as fast there. The sums are
in another order, so results differ in the last bits.
"""

from __future__ import annotations

import platform
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads

SMALLEST = 2**15
"""Multiplications of a product below which calling oneDNN takes longer than it saves."""

PARTS, LEAST_COLUMNS = 8, 128
"""Number of parts that the columns of a symmetric product are cut into, and the fewest columns of one.

The half that is not computed saves 17 to 32 % of the time for 192 to 3072 columns; with narrower parts it saves less.
"""

LONG = 8192
"""Numbers of a sum from which on it has a fixed number of threads. oneDNN splits such sums, and those of one row."""


@cache
def by_onednn() -> bool:
    """Whether products on this processor are computed by oneDNN: it has AVX-512 and is not Intel's."""
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _processor()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _processor() -> str:
    """What the system says of the processor, its maker included."""
    path = Path("/proc/cpuinfo")
    listed = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return f"{platform.processor()} {listed[:1000]}"


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute ``inputs @ weight.T + bias``; differentiable once.

    Args:
        inputs: (..., d_in).
        weight: (d_out, d_in).
        bias: (d_out,).
    """
    if not _suits(inputs, weight, bias):
        return functional.linear(inputs, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (inputs, weight, bias)):
        found: torch.Tensor = _Linear.apply(inputs, weight, bias)
        return found
    return _product(inputs, weight, bias)


def gram(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Compute ``left.T @ right``, a sum over the rows of (n, a) and (n, b)."""
    return linear(left.T, right.T)


def own_gram(rows: torch.Tensor) -> torch.Tensor:
    """Compute ``rows.T @ rows``, a sum over the rows of (n, a), of which one half follows from the other."""
    width = rows.shape[1]
    step = max(LEAST_COLUMNS, -(-width // PARTS))
    if step >= width:
        return gram(rows, rows)
    found = torch.empty(width, width, dtype=rows.dtype, device=rows.device)
    for start in range(0, width, step):
        stop = min(start + step, width)
        part = gram(rows[:, start:stop], rows[:, start:])
        found[start:stop, start:] = part
        found[stop:, start:stop] = part[:, stop - start :].T
    return found


def _suits(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.numel() * len(weight) >= SMALLEST
        and (bias is None or bias.dtype == torch.float32)
        and by_onednn()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = inputs.numel() // inputs.shape[-1]
    fixed = inputs.shape[-1] >= LONG or rows == 1
    with torch_threads(SUM_THREADS) if fixed else nullcontext():
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """`linear` with its gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the product and keep what its gradients need."""
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients of the inputs that need one."""
        inputs, weight = ctx.saved_tensors
        flat = grads.reshape(-1, grads.shape[-1])
        return (
            _product(grads, weight.T, None) if ctx.needs_input_grad[0] else None,
            _product(flat.T, inputs.reshape(-1, inputs.shape[-1]).T, None) if ctx.needs_input_grad[1] else None,
            flat.sum(0) if ctx.needs_input_grad[2] else None,
        )


def use_products(module: torch.nn.Module) -> None:
    """Let the Linear layers of a model compute their products by `linear`, in place."""
    if not by_onednn():
        return
    kinds: dict[type, type] = {}
    for part in module.modules():
        kind = type(part)
        if isinstance(part, torch.nn.Linear) and kind.forward is torch.nn.Linear.forward:
            if kind not in kinds:
                members = {"forward": _forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
                kinds[kind] = type(kind.__name__, (kind,), members)
            part.__class__ = kinds[kind]


def _forward(self: torch.nn.Linear, input: torch.Tensor) -> torch.Tensor:
    return linear(input, self.weight, self.bias)
