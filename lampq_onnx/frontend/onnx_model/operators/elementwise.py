"""ONNX operators that compute each element independently."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError

_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}


def dtype_of(code: int) -> torch.dtype:
    """The torch type of an ONNX type code.

    Raises:
        LampqError: the type is not supported.
    """
    kind = ir.DataType(code)
    if kind not in _DTYPES:
        raise LampqError(f"tensors of type {kind.name} are not supported")
    return _DTYPES[kind]


def _together(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tensors on one device: small constants stay on the CPU until they are combined with data."""
    if a.device == b.device:
        return a, b
    device = b.device if a.device.type == "cpu" else a.device
    return a.to(device), b.to(device)


def _binary(function: Any) -> Any:
    def call(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = function(*_together(a, b))
        return result

    return call


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


def _modulo(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    a, b = _together(a, b)
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _clip(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    if low is not None:
        x = torch.maximum(*_together(x, low.to(x.dtype)))
    if high is not None:
        x = torch.minimum(*_together(x, high.to(x.dtype)))
    return x


def _where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _together(a, b)
    return torch.where(condition.to(a.device), a, b)


def _cast(x: torch.Tensor, *, to: int, saturate: int = 1) -> torch.Tensor:  # noqa: ARG001  only float8 saturates
    return x.to(dtype_of(to))


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return functional.gelu(x, approximate=approximate)


def _hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return x * torch.sigmoid(alpha * x)


def _leaky_relu(x: torch.Tensor, *, alpha: float = 0.01) -> torch.Tensor:
    return functional.leaky_relu(x, alpha)


def _elu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return functional.elu(x, alpha)


def _selu(x: torch.Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> torch.Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, x, x * slope)


def _dropout(x: torch.Tensor, *_: torch.Tensor | None, seed: int = 0) -> torch.Tensor:  # noqa: ARG001
    return x


def _softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.softmax(x, axis)


def _log_softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.log_softmax(x, axis)


def _total(*values: torch.Tensor) -> torch.Tensor:
    return reduce(_binary(torch.add), values)


def _mean(*values: torch.Tensor) -> torch.Tensor:
    return _total(*values) / len(values)


def _largest(*values: torch.Tensor) -> torch.Tensor:
    return reduce(_binary(torch.maximum), values)


def _smallest(*values: torch.Tensor) -> torch.Tensor:
    return reduce(_binary(torch.minimum), values)


def _is_inf(x: torch.Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> torch.Tensor:
    infinite = torch.isinf(x)
    return infinite & (((x > 0) & bool(detect_positive)) | ((x < 0) & bool(detect_negative)))


ELEMENTWISE: Mapping[str, Any] = {
    "Abs": torch.abs,
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "CastLike": lambda x, like, saturate=1: x.to(like.dtype),  # noqa: ARG005  only float8 saturates
    "Ceil": torch.ceil,
    "Clip": _clip,
    "Cos": torch.cos,
    "Div": _binary(_divide),
    "Dropout": _dropout,
    "Elu": _elu,
    "Atan": torch.atan,
    "Tan": torch.tan,
    "Equal": _binary(torch.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "IsInf": _is_inf,
    "IsNaN": torch.isnan,
    "LeakyRelu": _leaky_relu,
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": torch.log,
    "LogSoftmax": _log_softmax,
    "Max": _largest,
    "Mean": _mean,
    "Min": _smallest,
    "Mish": functional.mish,
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(_power),
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Selu": _selu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softmax": _softmax,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Sub": _binary(torch.sub),
    "Sum": _total,
    "Swish": _swish,
    "Tanh": torch.tanh,
    "Where": _where,
    "Xor": _binary(torch.logical_xor),
}
