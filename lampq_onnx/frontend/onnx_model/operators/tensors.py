"""ONNX operators that move, cut, join and create tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError


def _ints(values: torch.Tensor | Sequence[int]) -> list[int]:
    return [int(v) for v in (values.tolist() if isinstance(values, torch.Tensor) else values)]


def _reshape(x: torch.Tensor, shape: torch.Tensor, *, allowzero: int = 0) -> torch.Tensor:
    sizes = _ints(shape)
    if not allowzero:
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    rows = 1
    for size in x.shape[: axis if axis >= 0 else x.dim() + axis]:
        rows *= size
    return x.reshape(rows, -1)


def _transpose(x: torch.Tensor, *, perm: Sequence[int] | None = None) -> torch.Tensor:
    return x.permute(*(perm if perm is not None else reversed(range(x.dim()))))


def _squeeze(
    x: torch.Tensor, axes_input: torch.Tensor | None = None, *, axes: Sequence[int] | None = None
) -> torch.Tensor:
    chosen = axes_input if axes_input is not None else axes
    return x.squeeze() if chosen is None else x.squeeze(tuple(_ints(chosen)))


def _unsqueeze(
    x: torch.Tensor, axes_input: torch.Tensor | None = None, *, axes: Sequence[int] | None = None
) -> torch.Tensor:
    chosen = _ints(axes_input if axes_input is not None else axes or ())
    rank = x.dim() + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def _expand(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    # ONNX broadcasts both ways: a 1 in the shape keeps the tensor's size.
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape))))


def _concat(*values: torch.Tensor, axis: int) -> torch.Tensor:
    device = next((v.device for v in values if v.device.type != "cpu"), values[0].device)
    return torch.cat([v.to(device) for v in values], axis)


def _split(
    x: torch.Tensor,
    sizes_input: torch.Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int,
) -> tuple[torch.Tensor, ...]:
    sizes = sizes_input if sizes_input is not None else split
    if sizes is not None:
        return torch.split(x, _ints(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


def _slice(
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    first, last = _ints(starts), _ints(ends)
    chosen = _ints(axes) if axes is not None else list(range(len(first)))
    strides = _ints(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, chosen, strides, strict=True):
        picked = range(*slice(start, end, step).indices(x.shape[axis])) if step > 0 else None
        if picked is not None:
            index = [slice(None)] * x.dim()
            index[axis] = slice(picked.start, max(picked.stop, picked.start), step)
            x = x[tuple(index)]
        else:
            size = x.shape[axis]
            low = -1 if end < -size else end % size if end < 0 else end
            high = min(start, size - 1) if start >= 0 else start % size
            places = torch.arange(high, low, step, device=x.device)
            x = x.index_select(axis, places)
    return x


def _gather(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    axis %= x.dim()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return x.select(axis, int(indices))
    places = indices.to(x.device).reshape(-1)
    places = torch.where(places < 0, places + x.shape[axis], places)
    found = x.index_select(axis, places)
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    places = indices.to(x.device)
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


def _gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    if batch_dims:
        raise LampqError("GatherND with batch_dims is not supported")
    places = indices.to(x.device)
    return x[tuple(places.unbind(-1))]


def _tile(x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    return x.repeat(*_ints(repeats))


def _pad(
    x: torch.Tensor,
    pads: torch.Tensor,
    value: torch.Tensor | None = None,
    axes: torch.Tensor | None = None,
    *,
    mode: str = "constant",
) -> torch.Tensor:
    amounts = _ints(pads)
    chosen = [a % x.dim() for a in _ints(axes)] if axes is not None else list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for position, axis in enumerate(chosen):
        before[axis], after[axis] = amounts[position], amounts[position + len(chosen)]
    if mode == "constant":
        flat = [p for axis in reversed(range(x.dim())) for p in (before[axis], after[axis])]
        return functional.pad(x, flat, value=0.0 if value is None else float(value))
    if mode not in ("reflect", "edge", "wrap"):
        raise LampqError(f"Pad with mode {mode} is not supported")
    for axis in range(x.dim()):
        size = x.shape[axis]
        places = torch.arange(-before[axis], size + after[axis], device=x.device)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "wrap":
            places = places % size
        else:
            places = (size - 1) - (places % max(2 * (size - 1), 1) - (size - 1)).abs()
        x = x.index_select(axis, places)
    return x


def _shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> torch.Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _size(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _constant_of_shape(shape: torch.Tensor, *, value: torch.Tensor | None = None) -> torch.Tensor:
    if value is None:
        return torch.zeros(_ints(shape), dtype=torch.float32)
    return torch.full(_ints(shape), value.reshape(-1)[0].item(), dtype=value.dtype)


def _range(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _trilu(x: torch.Tensor, diagonal: torch.Tensor | None = None, *, upper: int = 1) -> torch.Tensor:
    k = 0 if diagonal is None else int(diagonal)
    return x.triu(k) if upper else x.tril(k)


def _one_hot(indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    classes = int(depth)
    hot = functional.one_hot(indices.long() % classes, classes).to(values.dtype)
    found = hot * (values[1] - values[0]).to(hot.device) + values[0].to(hot.device)
    return found if axis in (-1, indices.dim()) else found.movedim(-1, axis)


def _scatter_nd(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none"
) -> torch.Tensor:
    if reduction not in ("none", "add"):
        raise LampqError(f"ScatterND with reduction {reduction} is not supported")
    places = tuple(indices.to(x.device).unbind(-1))
    return x.index_put(places, updates.to(x.device), accumulate=reduction == "add")


def _scatter_elements(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, axis: int = 0, reduction: str = "none"
) -> torch.Tensor:
    if reduction not in ("none", "add"):
        raise LampqError(f"ScatterElements with reduction {reduction} is not supported")
    places = indices.to(x.device) % x.shape[axis]
    scatter = x.scatter_add if reduction == "add" else x.scatter
    return scatter(axis, places, updates.to(x))


def _depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def _space_to_depth(x: torch.Tensor, *, blocksize: int) -> torch.Tensor:
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


TENSORS: Mapping[str, Any] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
