"""ONNX operators that reduce, accumulate or select along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Reduction = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _reduced(function: Reduction) -> Any:
    """A reduction whose axes are an attribute before opset 18 (13 for ReduceSum) and an input from then on."""

    def call(
        x: torch.Tensor,
        axes_input: torch.Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> torch.Tensor:
        chosen = tuple(axes_input.tolist()) if axes_input is not None else tuple(axes or ())
        if not chosen:
            if noop_with_empty_axes:
                return x
            chosen = tuple(range(x.dim()))
        return function(x, chosen, bool(keepdims))

    return call


def _product(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _best(function: Any) -> Any:
    def call(x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> torch.Tensor:
        if select_last_index:
            flipped: torch.Tensor = function(x.flip(axis), axis, keepdim=bool(keepdims))
            return x.shape[axis] - 1 - flipped
        result: torch.Tensor = function(x, axis, keepdim=bool(keepdims))
        return result

    return call


def _top_k(
    x: torch.Tensor, k: torch.Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    values, places = torch.topk(x, int(k), axis, bool(largest), bool(sorted))
    return values, places


def _cumulative_sum(x: torch.Tensor, axis: torch.Tensor, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    along = int(axis)
    values = x.flip(along) if reverse else x
    total = values.cumsum(along) - (values if exclusive else 0)
    return total.flip(along) if reverse else total


REDUCTIONS: Mapping[str, Any] = {
    "ArgMax": _best(torch.argmax),
    "ArgMin": _best(torch.argmin),
    "CumSum": _cumulative_sum,
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSumExp": _reduced(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "TopK": _top_k,
}
