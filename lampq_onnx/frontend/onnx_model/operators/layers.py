"""ONNX operators for products, convolutions, pooling and normalization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError


def _gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    product = (a.mT if transA else a) @ (b.mT if transB else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, lower: bool
) -> list[int]:
    """Pads of auto_pad SAME_UPPER or SAME_LOWER: before every axis, then after every axis."""
    totals = [
        max((-(-size // step) - 1) * step + (k - 1) * dilation + 1 - size, 0)
        for size, k, step, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*large, *small] if lower else [*small, *large]


def _padded(
    x: torch.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    value: float = 0.0,
) -> torch.Tensor:
    if auto_pad.startswith("SAME"):
        pads = same_padding(x.shape[2:], kernel, strides, dilations, lower=auto_pad == "SAME_LOWER")
    if pads is None or auto_pad == "VALID" or not any(pads):
        return x
    spatial = len(kernel)
    flat = [p for axis in reversed(range(spatial)) for p in (pads[axis], pads[axis + spatial])]
    return functional.pad(x, flat, value=value)


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    kernel = list(kernel_shape or weight.shape[2:])
    steps, spread = list(strides or [1] * len(kernel)), list(dilations or [1] * len(kernel))
    x = _padded(x, kernel, steps, spread, pads, auto_pad)
    function: Any = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(kernel)]
    result: torch.Tensor = function(x, weight, bias, steps, 0, spread, group)
    return result


def _conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    kernel = list(kernel_shape or weight.shape[2:])
    spatial = len(kernel)
    steps, spread = list(strides or [1] * spatial), list(dilations or [1] * spatial)
    function: Any = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
    whole: torch.Tensor = function[spatial](
        x, weight, bias, steps, 0, list(output_padding or [0] * spatial), group, spread
    )
    wanted = list(output_shape)[-spatial:] if output_shape else None
    if wanted is None and auto_pad.startswith("SAME"):
        wanted = [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
    if wanted is not None:
        totals = [max(size - own, 0) for size, own in zip(whole.shape[2:], wanted, strict=True)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
    for axis, (before, after) in enumerate(zip((pads or [])[:spatial], (pads or [])[spatial:], strict=True), start=2):
        whole = whole.narrow(axis, before, whole.shape[axis] - before - after)
    return whole


def _max_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,  # noqa: ARG001  for the indices output, which is not supported
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    if len(kernel_shape) != 2:
        raise LampqError("MaxPool is supported for images only")
    steps, spread = list(strides or [1, 1]), list(dilations or [1, 1])
    x = _padded(x, kernel_shape, steps, spread, pads, auto_pad, -math.inf)
    return functional.max_pool2d(x, list(kernel_shape), steps, 0, spread, bool(ceil_mode))


def _average_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    if len(kernel_shape) != 2 or any(d != 1 for d in dilations or ()) or ceil_mode:
        raise LampqError("AveragePool is supported for images only, without dilations or ceil_mode")
    kernel, steps = list(kernel_shape), list(strides or [1, 1])
    padded = _padded(x, kernel, steps, [1, 1], pads, auto_pad)
    total: torch.Tensor = functional.avg_pool2d(padded, kernel, steps)
    if count_include_pad or padded is x:
        return total
    share: torch.Tensor = functional.avg_pool2d(
        _padded(torch.ones_like(x), kernel, steps, [1, 1], pads, auto_pad), kernel, steps
    )
    return total / share


def _global_average_pool(x: torch.Tensor) -> torch.Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _global_max_pool(x: torch.Tensor) -> torch.Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _layer_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,  # noqa: ARG001  everything is computed in float32
) -> torch.Tensor:
    shape = x.shape[axis % x.dim() :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, None, None, epsilon) * scale
    return normal if bias is None else normal + bias


def _rms_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,  # noqa: ARG001
) -> torch.Tensor:
    axes = tuple(range(axis % x.dim(), x.dim()))
    result: torch.Tensor = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale
    return result


def _batch_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,  # noqa: ARG001  only for training
    training_mode: int = 0,
) -> torch.Tensor:
    if training_mode:
        raise LampqError("BatchNormalization in training mode is not supported")
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5) -> torch.Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _group_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,  # noqa: ARG001
) -> torch.Tensor:
    repeat = x.shape[1] // scale.numel()  # opset 18 has one number per group, later opsets one per channel
    if repeat > 1:
        scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


def _lp_normalization(x: torch.Tensor, *, axis: int = -1, p: int = 2) -> torch.Tensor:
    length: torch.Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / length


def _einsum(*values: torch.Tensor, equation: str) -> torch.Tensor:
    result: torch.Tensor = torch.einsum(equation, *values)
    return result


LAYERS: Mapping[str, Any] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_normalization,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
}
